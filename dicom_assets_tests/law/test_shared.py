"""Services that share tables: whatever happens to one, and whenever, each one's rows are those of its own feed."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import hypothesis.strategies as st
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings

from dicom_assets.core.columns.schema import INSTANCE, SERVICE, TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.table import study_index
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law import test_healthcare
from dicom_assets_tests.law.test_order import EXTRA, HOURS, check_law, histories, law, play, steps
from dicom_assets_tests.law.test_writers import CREATES, DELETES, run_in_turns, schedules
from dicom_assets_tests.law.test_writers import play as apply_all
from dicom_assets_tests.law.world import CHAIN, World, hours

NAMES = ("north", "south")


@contextmanager
def open_worlds(**options) -> Iterator[list[World]]:
    """Two services whose instances have the same UIDs, and the tables that they share."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="law-"))
        services = [stack.enter_context(Service(seed=1)) for _ in NAMES]
        yield [
            World(service, build_lake(folder, service=name), **options)
            for service, name in zip(services, NAMES, strict=True)
        ]


def check_rows_of_all(worlds: Sequence[World]) -> None:
    """What readers see of `instance`: the rows of both, each with its service."""
    rows = DeltaTable(worlds[0].lake.uri(INSTANCE)).to_pyarrow_table(columns=[SERVICE.name, "sopInstanceUid"])
    expected = [
        (name, row["sopInstanceUid"])
        for name, world in zip(NAMES, worlds, strict=True)
        for row in world.expected()["instance"]
    ]
    assert sorted(tuple(row.values()) for row in rows.to_pylist()) == sorted(expected)


def check_interleaved(both, orders, turns, shard: int) -> None:
    many_files = (2, 8)[shard % 2]
    with pytest.MonkeyPatch.context() as patch, open_worlds(extra=EXTRA if shard % 2 else ()) as worlds:
        patch.setattr(data_file, "JOINED_FILES", many_files)
        patch.setattr(study_index, "UNKNOWN_FILES", many_files)
        for world in worlds:
            world.lake.retention_hours = 0  # whatever is not live of its own rows may go
        play_both(worlds, both, orders, turns)


def play_both(worlds: Sequence[World], both, orders, turns) -> None:
    """Each plays its history, whichever takes the next step; then the law is held against the rows of each."""
    waiting = [steps(world, *how) for world, *how in zip(worlds, both, orders, strict=True)]
    for turn in turns:
        next(waiting[turn], None)
    for rest in waiting:
        for _ in rest:
            pass
    for world in worlds:
        check_law(world)
    check_rows_of_all(worlds)


two_histories = st.tuples(histories, histories)
two_orders = st.tuples(st.permutations(range(HOURS)), st.permutations(range(HOURS)))
turns = st.lists(st.integers(0, 1), max_size=60)


@pytest.mark.parametrize("shard", range(2))
@given(both=two_histories, orders=two_orders, turns=turns)
@law(15)
def test_each_service_has_the_rows_of_its_own_feed_after_any_two_histories(shard, both, orders, turns):
    check_interleaved(both, orders, turns, shard)


@pytest.mark.deep
@pytest.mark.parametrize("shard", range(10))
@given(both=two_histories, orders=two_orders, turns=turns)
@law(150)
def test_each_service_has_the_rows_of_its_own_feed_after_thousands_of_histories(shard, both, orders, turns):
    check_interleaved(both, orders, turns, shard)


@given(history=histories, order=st.permutations(range(HOURS)))
@law(5)
def test_what_one_service_does_changes_no_row_of_another(history, order):
    with open_worlds() as (north, south):
        apply_all(south.service, [*CREATES, *DELETES])
        south.run_chain(hours(0, 2))
        versions = [south.lake.version(table) for table in TABLES]
        play(north, history, order)
        check_law(south)
        assert all(south.lake.has_version(*each) for each in zip(TABLES, versions, strict=True))
        south.run_chain(hours(0, 2))
        check_law(north)


def test_layout_of_healthcare_data_solutions_can_be_shared():
    with open_worlds() as worlds:
        for world in worlds:
            apply_all(world.service, [*CREATES, *DELETES])
        apply_all(worlds[1].service, [(("delete", *CREATES[1][0][1:3], 3), (1, 2))])
        for hour in (1, 0):
            for world in worlds:
                test_healthcare.run(world, hour)
        for world in worlds:
            assert test_healthcare.found(world) == test_healthcare.expected(world.read)
        rows = DeltaTable(worlds[0].lake.uri(HEALTHCARE_INSTANCE)).to_pyarrow_table(columns=[SERVICE.name])
        assert rows[SERVICE.name].to_pylist() == ["north"]


@given(schedule=schedules, joined_files=st.sampled_from([2, 8]))
@settings(law(15))
def test_runs_of_two_services_at_once_leave_each_its_rows_however_their_turns_mix(schedule, joined_files):
    with pytest.MonkeyPatch.context() as patch, open_worlds() as worlds:
        patch.setattr(data_file, "JOINED_FILES", joined_files)

        def materialise(world: World, lake: Lake) -> None:
            runner = World(world.service, lake, world.read)
            for name in CHAIN:
                runner.run(name, hours(0, 2))

        for world in worlds:
            apply_all(world.service, [*CREATES, *DELETES])
        apply_all(worlds[1].service, [(("delete", *CREATES[1][0][1:3], 3), (1, 2))])
        works = [partial(materialise, world) for world in worlds]
        run_in_turns(worlds[0].lake.storage, schedule, works, NAMES)
        for world in worlds:
            check_law(world)
        check_rows_of_all(worlds)


@given(schedule=schedules)
@settings(law(8))
def test_upkeep_of_one_service_beside_a_run_of_another_loses_nothing(schedule):
    with open_worlds() as worlds:
        for world in worlds:
            apply_all(world.service, [*CREATES, *DELETES])
            for hour in (0, 1):
                world.run_chain(hours(hour))
        apply_all(worlds[0].service, [(("update", *CREATES[1][0][1:3], "again"), (2, 0))])

        def materialise(lake: Lake) -> None:
            World(worlds[0].service, lake, worlds[0].read).run_chain(hours(2))

        def look_after(lake: Lake) -> None:
            for table in TABLES[:2]:
                maintain(lake, table)

        run_in_turns(worlds[0].lake.storage, schedule, [materialise, look_after], NAMES)
        for world in worlds:
            check_law(world)
