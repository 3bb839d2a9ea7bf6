"""Two runs at the same time: whichever way their reads and commits interleave, the tables end as the law says."""

import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from dicom_assets.core.columns.schema import TABLES, Table
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.test_order import apply
from dicom_assets_tests.law.world import CHAIN, World, hours, read_tables

A, B = ("1.1", "1.1.1", "1.1.1.1"), ("1.1", "1.1.1", "1.1.1.2")
DEFAULT = "Microsoft.Default"
CREATES = [
    (("store", DEFAULT, A, {}), (0, 0)),
    (("store", DEFAULT, B, {"00080060": {"vr": "CS", "Value": ["CT"]}}), (0, 1)),
]
DELETES = [(("delete", DEFAULT, A, 3), (1, 0)), (("update", DEFAULT, B, "later"), (1, 1))]


class Turns:
    """Lets one of two threads at a time go from one gate to the next, in the order of a schedule."""

    def __init__(self, schedule: Sequence[bool]) -> None:
        self._schedule = iter(schedule)
        self._changed = threading.Condition()
        self._waiting: set[bool] = set()
        self._running = {False, True}
        self._turn: bool | None = None

    def gate(self, who: bool) -> None:
        with self._changed:
            self._waiting.add(who)
            self._choose()
            self._changed.wait_for(lambda: self._turn is who)
            self._waiting.discard(who)
            self._turn = None

    def leave(self, who: bool) -> None:
        with self._changed:
            self._running.discard(who)
            self._choose()

    def _choose(self) -> None:
        if self._turn is None and self._waiting and self._waiting == self._running:
            preferred = next(self._schedule, True)
            self._turn = preferred if preferred in self._waiting else not preferred
            self._changed.notify_all()


class GatedLake(Lake):
    """A writer of its own, that waits for its turn before every look at a table and every commit."""

    def __init__(self, storage: Storage, turns: Turns, who: bool, service: str | None) -> None:
        super().__init__(storage, {table.name: table.name for table in TABLES}, scope=Scope(service))
        self._turns, self._who = turns, who

    def open(self, table: Table, version: int | None = None) -> Snapshot | None:
        self._turns.gate(self._who)
        return super().open(table, version)

    def has_version(self, table: Table, version: int | None) -> bool:
        self._turns.gate(self._who)
        return super().has_version(table, version)

    def _commit(self, snapshot, actions) -> None:
        self._turns.gate(self._who)
        super()._commit(snapshot, actions)

    def keep_retention(self, snapshot: Snapshot) -> bool:
        self._turns.gate(self._who)
        return super().keep_retention(snapshot)


def run_in_turns(
    storage: Storage, schedule, works: Sequence[Callable[[Lake], None]], services: Sequence[str | None] = (None, None)
) -> None:
    """Two pieces of work, each with a lake of its own, in the turns of the schedule: False is the first one's.

    Services that are named share their tables.
    """
    turns = Turns(schedule)
    errors: list[BaseException] = []

    def work(who: bool) -> None:
        try:
            works[who](GatedLake(storage, turns, who, services[who]))
        except BaseException as error:
            errors.append(error)
        finally:
            turns.leave(who)

    threads = [threading.Thread(target=work, args=(who,), daemon=True) for who in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "the writers stand still"
    assert not errors, errors


def run_both(storage: Storage, service: Service, schedule, runs) -> None:
    """Two writers materialise the chain, each its assets for its window, in the turns of the schedule."""

    def materialise(names, window, seen, lake: Lake) -> None:
        world = World(service, lake, seen, spoiled={(DEFAULT, B[2])})
        for name in names:
            world.run(name, window)

    run_in_turns(storage, schedule, [partial(materialise, *run) for run in runs])


def play(service: Service, changes) -> None:
    for change, moment in changes:
        apply(service, change, moment)


schedules = st.lists(st.booleans(), max_size=60)
law = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check_create_read_before_its_delete(schedule, deletes) -> None:
    """One run has read the Create while its instance was alive; the other brings its Delete."""
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        play(service, CREATES)
        world = World(service, build_lake(folder), spoiled={(DEFAULT, B[2])})
        world.run("change_feed", hours(0))
        play(service, deletes)
        run_both(
            world.lake.storage, service, schedule, [(CHAIN[1:], hours(0), world.read), (CHAIN, hours(1), world.read)]
        )
        assert [row["sopInstanceUid"] for row in read_tables(world.lake)["instance"]] == [B[2]]
        assert read_tables(world.lake) == world.expected()


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("first", [False, True], ids=["create first", "delete first"])
def test_a_delete_that_finds_no_row_and_commits_nothing_still_wins(first, steps):
    check_create_read_before_its_delete([first] * steps + [not first] * 100, DELETES[:1])


@given(schedule=schedules, deletes=st.sampled_from([DELETES[:1], DELETES]))
@law
def test_a_create_read_before_its_delete_leaves_no_row_whichever_run_commits_first(schedule, deletes):
    check_create_read_before_its_delete(schedule, deletes)


@pytest.mark.parametrize("windows", [(0, 0), (1, 0)], ids=str)
@given(schedule=schedules, joined_files=st.sampled_from([2, 8]))
@settings(law, max_examples=15)
def test_two_chains_at_the_same_moment_leave_each_row_once(windows, schedule, joined_files):
    with (
        pytest.MonkeyPatch.context() as patch,
        Service(seed=1) as service,
        tempfile.TemporaryDirectory(prefix="law-") as folder,
    ):
        patch.setattr(data_file, "JOINED_FILES", joined_files)
        play(service, [*CREATES, *DELETES])
        world = World(service, build_lake(folder), spoiled={(DEFAULT, B[2])})
        run_both(world.lake.storage, service, schedule, [(CHAIN, hours(hour), world.read) for hour in windows])
        assert read_tables(world.lake) == world.expected()
