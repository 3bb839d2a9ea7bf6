"""Any order, any range, any repetition, any subset: the same entries give the same tables, row for row."""

import contextlib
import tempfile
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from dicom_assets.config.dictionary import load_dictionary
from dicom_assets.core.columns.extra_columns import parse_extra_columns
from dicom_assets.core.columns.schema import CHANGE_FEED, TABLES
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.emulator.errors import InstanceExistsError
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.table import study_index
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import CHAIN, START, World, hours, read_tables

HOURS = 4
PARTITIONS = ("Microsoft.Default", "research")
KEYS = [(f"1.{study}", f"1.{study}.{series}", f"1.{study}.{series}.{instance}")
        for study in (1, 2) for series in (1, 2) for instance in (1, 2)]  # fmt: skip

texts = st.sampled_from([None, "", "CT", "MR", "CT\0", " MR \0 ", "\0\0", "  ", "Größe\\ß", "a" * 70])
dates = st.sampled_from([None, "20260301", "20260301\0", "2026.03.01 ", "20231399", "", " \0", "yesterday"])
numbers = st.sampled_from([None, 1, "2", " 3 ", "5\0", "4.5", "x", "", "\0", 2**40])


def element(values):
    return values.map(lambda value: {"vr": "LO"} if value is None else {"vr": "LO", "Value": [value]})


spacings = st.sampled_from([[], [0.5, 0.5], ["0.5", "0.25"], [None, 1], ["x", 2.0], [1, 2, 3]])
codes = st.sampled_from([{}, {"Value": []}, {"Value": [None]}, {"Value": [{}]},
                         {"Value": [{"00321064": {"Value": [{"00080100": {"Value": ["CT1"]}}]}}]},
                         {"Value": [{}, {"00321064": {"Value": [{"00080100": {"Value": ["A", "B"]}}]}}]}])  # fmt: skip
attributes = st.fixed_dictionaries(
    {},
    optional={
        "00080060": element(texts),
        "00081030": element(texts),
        "00080020": element(dates),
        "00200013": element(numbers),
        "00280030": spacings.map(lambda values: {"vr": "DS", "Value": values}),
        "00400275": codes.map(lambda sequence: {"vr": "SQ"} | sequence),
        "00100010": st.sampled_from([{"vr": "PN"}, {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
                                     {"vr": "PN", "Value": [{"Ideographic": "山田"}]}, {"vr": "PN", "Value": [None]}]),
    },
)  # fmt: skip
EXTRA = parse_extra_columns(
    {
        "columns": {
            "spacing": {"tag": "PixelSpacing", "grain": "series"},
            "columnSpacing": "PixelSpacing[1]",
            "code": {"tag": "RequestAttributesSequence.RequestedProcedureCodeSequence.CodeValue", "grain": "study"},
            "otherCodes": {
                "tag": "RequestAttributesSequence[1].RequestedProcedureCodeSequence.CodeValue",
                "type": "list<string>",
            },
        }
    },
    load_dictionary(),
).columns
"""Users' columns of every kind: lists, a value by its number, paths into sequences, in each table."""

moments = st.tuples(st.integers(0, HOURS - 1), st.sampled_from([0, 0, 1, 1800, 3599]))
changes = st.one_of(
    st.tuples(st.just("store"), st.sampled_from(PARTITIONS), st.sampled_from(KEYS), attributes),
    st.tuples(st.just("update"), st.sampled_from(PARTITIONS), st.sampled_from(KEYS), st.sampled_from("AB")),
    st.tuples(st.just("delete"), st.sampled_from(PARTITIONS), st.sampled_from(KEYS), st.integers(1, 3)),
)
windows = st.integers(0, HOURS - 1).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, HOURS - first)))
runs = st.tuples(st.sampled_from([*CHAIN, CHAIN]), windows)
upkeep = st.tuples(st.just("maintain"), st.sampled_from(TABLES))
losses = st.tuples(st.sampled_from(["spoil", "heal"]), st.sampled_from(PARTITIONS), st.sampled_from(KEYS))
"""Metadata that the service cannot give out from now on, or can again."""
histories = st.lists(
    st.one_of(st.tuples(st.just("change"), changes, moments), st.tuples(st.just("run"), runs), upkeep, losses),
    min_size=4,
    max_size=24,
)


def apply(service: Service, change, moment) -> None:
    kind, partition, (study, series, instance), detail = change
    at = START + moment[0] * HOUR
    at = at.replace(minute=moment[1] // 60, second=moment[1] % 60)
    if kind == "store":
        uids = {"0020000D": study, "0020000E": series, "00080018": instance}
        metadata = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()} | detail
        with contextlib.suppress(InstanceExistsError):
            service.store_metadata(metadata, partition=partition, at=at)
    elif kind == "update":
        service.update(study, {"00081030": {"vr": "LO", "Value": [detail]}}, partition=partition, at=at)
    else:
        service.delete(*(study, series, instance)[:detail], partition=partition, at=at)


def lose(world: World, kind: str, partition: str, key: tuple[str, str, str]) -> None:
    """The service loses the metadata of an instance, or has it again."""
    (world.spoiled.add if kind == "spoil" else world.spoiled.discard)((partition, key[2]))


class Stale:
    """Which assets still owe which hours: what a person would materialise to bring the lake up to date."""

    def __init__(self) -> None:
        self._owed = {name: set(range(HOURS)) for name in CHAIN}

    def ran(self, name: str, first: int, count: int) -> None:
        done = set(range(first, first + count))
        self._owed[name] -= done
        later = CHAIN[CHAIN.index(name) + 1 :] if name in ("change_feed", "instance") else ()
        for downstream in later:
            self._owed[downstream] |= done

    def owed(self, name: str) -> set[int]:
        return self._owed[name]


def versions(world: World) -> list[int | None]:
    return [world.lake.version(table) for table in TABLES]


def play(world: World, history, order) -> None:
    """Plays changes and runs as they come; then whatever an asset still owes, in some order of the hours."""
    for _ in steps(world, history, order):
        pass


def steps(world: World, history, order) -> Iterator[None]:
    """The same, one step each time that it is asked for more."""
    stale = Stale()
    for kind, *details in history:
        yield
        if kind == "change":
            apply(world.service, *details)
            continue
        if kind == "maintain":
            maintain(world.lake, *details)
            continue
        if kind in ("spoil", "heal"):
            lose(world, kind, *details)
            continue
        names, (first, count) = details[0]
        for name in (names,) if isinstance(names, str) else names:
            world.run(name, hours(first, count))
            stale.ran(name, first, count)
    for name in CHAIN:
        for hour in sorted(stale.owed(name), key=order.index):
            yield
            world.run(name, hours(hour))
            stale.ran(name, hour, 1)


def law(examples: int):
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def check(history, order, shard: int) -> None:
    joined_files, decodes_early = (2, 8)[shard % 2], shard % 4 < 2
    entries_at_once = 1 if shard % 4 in (1, 2) else 10**6
    encoded_rows = 2 if shard % 4 in (0, 3) else 10**6
    extra = EXTRA if shard % 2 else ()
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        lake = build_lake(folder)
        lake.retention_hours = 0  # nobody else is there: all that is not live may go
        world = World(
            service,
            lake,
            decodes_early=decodes_early,
            encoded_rows=encoded_rows,
            entries_at_once=entries_at_once,
            extra=extra,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_file, "JOINED_FILES", joined_files)
            patch.setattr(study_index, "UNKNOWN_FILES", joined_files)
            play(world, history, order)
        check_law(world)


def check_law(world: World) -> None:
    """The tables are what was read makes of them, and each entry is stored once."""
    expected, found = world.expected(), read_tables(world.lake)
    for name, rows in expected.items():
        assert found[name] == rows, name
    stored = world.lake.open(CHANGE_FEED).read_table(["sequence"])["sequence"].to_pylist()
    assert sorted(stored) == sorted({entry["sequence"] for entry in world.read})


@pytest.mark.parametrize("shard", range(4))
@given(history=histories, order=st.permutations(range(HOURS)))
@law(50)
def test_tables_equal_the_reference_fold_after_any_history_of_changes_and_runs(shard, history, order):
    check(history, order, shard)


@pytest.mark.deep
@pytest.mark.parametrize("shard", range(20))
@given(history=histories, order=st.permutations(range(HOURS)))
@law(250)
def test_tables_equal_the_reference_fold_after_thousands_of_histories(shard, history, order):
    check(history, order, shard)


@given(history=histories, order=st.permutations(range(HOURS)))
@law(10)
def test_a_run_without_news_commits_nothing(history, order):
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        world = World(service, build_lake(folder))
        play(world, history, order)
        world.run_chain(hours(0, HOURS))
        before = versions(world)
        world.run_chain(hours(0, HOURS))
        for hour in order:
            world.run_chain(hours(hour))
        assert versions(world) == before


@given(history=histories, later=histories, order=st.permutations(range(HOURS)))
@law(8)
def test_columns_that_are_added_later_are_filled_from_the_stored_feed_alone(history, later, order):
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        world = World(service, build_lake(folder))
        play(world, history, order)
        world.extra = EXTRA
        play(world, later, order)
        world.fetch_pages = None  # the service is not asked again
        for name in CHAIN[1:]:
            world.run(name, hours(0, HOURS))
        expected, found = world.expected(), read_tables(world.lake)
        for name, rows in expected.items():
            assert found[name] == (rows or []), name


@given(history=histories, later=histories, order=st.permutations(range(HOURS)))
@law(8)
def test_columns_that_are_removed_later_leave_the_others_to_the_law(history, later, order):
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        world = World(service, build_lake(folder), extra=EXTRA)
        play(world, history, order)
        world.extra = ()
        play(world, later, order)
        removed = {column.name for column, _ in EXTRA}
        for name, rows in read_tables(world.lake).items():
            kept = [{column: value for column, value in row.items() if column not in removed} for row in rows]
            assert kept == world.expected()[name], name
