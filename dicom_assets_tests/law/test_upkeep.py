"""Upkeep beside a run, killed, and for a month: the tables stay as the law says."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake, data_files, hours_ago, live_files, read, store, study
from dicom_assets_tests.law.boundaries import forking
from dicom_assets_tests.law.killed_upkeep import RETENTION
from dicom_assets_tests.law.test_writers import law, play, run_in_turns, schedules
from dicom_assets_tests.law.world import CHAIN, World, hours, read_tables

DEFAULT = "Microsoft.Default"
KEYS = [(f"1.{study}", f"1.{study}.1", f"1.{study}.1.1") for study in range(3)]
CREATES = [[(("store", DEFAULT, key, {}), (hour, 0))] for hour, key in enumerate(KEYS)]
CHANGES = [
    (("update", DEFAULT, KEYS[0], "corrected"), (3, 0)),
    (("delete", DEFAULT, KEYS[1], 3), (3, 1)),
    (("store", DEFAULT, ("1.9", "1.9.1", "1.9.1.1"), {}), (3, 2)),
]
LOOKED_AFTER = (CHANGE_FEED, INSTANCE)
TURNS_OF_RUN, TURNS_OF_UPKEEP = 7, 16


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A lake of three hours, the service that has changed since, and what was read of it."""
    with Service(seed=1) as service:
        world = World(service, build_lake(tmp_path_factory.mktemp("grown")))
        for hour, changes in enumerate(CREATES):
            play(service, changes)
            world.run_chain(hours(hour))
        play(service, CHANGES)
        yield world


def check_upkeep_beside_a_run(grown: World, schedule) -> None:
    """A run replaces files that upkeep joins; both write change_feed and instance."""
    with tempfile.TemporaryDirectory(prefix="law-") as folder:
        lake = build_lake(shutil.copytree(grown.lake.storage.url, folder, dirs_exist_ok=True))
        world = World(grown.service, lake, list(grown.read))

        def materialise(lake: Lake) -> None:
            runner = World(grown.service, lake, world.read)
            for name in CHAIN[:2]:
                runner.run(name, hours(3))

        def look_after(lake: Lake) -> None:
            for table in LOOKED_AFTER:
                maintain(lake, table)

        run_in_turns(lake.storage, schedule, [materialise, look_after])
        for name in CHAIN[2:]:
            world.run(name, hours(3))
        assert read_tables(lake) == world.expected()
        for table in LOOKED_AFTER:
            maintain(lake, table)
            assert len(live_files(lake, table)) == 1
        assert read_tables(lake) == world.expected()


@pytest.mark.parametrize(
    ("first", "turn"),
    [
        *(pytest.param(False, turn, id=f"upkeep after turn {turn} of a run") for turn in range(TURNS_OF_RUN + 1)),
        *(pytest.param(True, turn, id=f"a run after turn {turn} of upkeep") for turn in range(TURNS_OF_UPKEEP + 1)),
    ],
)
def test_upkeep_at_any_turn_of_a_run_and_a_run_at_any_turn_of_upkeep_lose_and_double_nothing(grown, first, turn):
    check_upkeep_beside_a_run(grown, [first] * turn + [not first] * 100)


@given(schedule=schedules)
@settings(law, max_examples=10)
def test_upkeep_and_a_run_lose_and_double_nothing_however_their_turns_mix(grown, schedule):
    check_upkeep_beside_a_run(grown, schedule)


# Killed


@pytest.fixture(scope="module")
def run_killed():
    with forking("dicom_assets_tests.law.killed_upkeep") as run:
        yield run


@pytest.mark.parametrize("shard", range(2))
def test_upkeep_killed_at_any_boundary_leaves_every_row_and_the_next_one_does_the_rest(shard, run_killed, tmp_path):
    unkempt = build_lake(tmp_path / "unkempt", retention_hours=10**5)
    for age in (300, 200, 2, 1):
        with hours_ago(unkempt, age):
            store(unkempt, study("1", patientSex=str(age)), study(f"2.{age}"))
    rows = read(unkempt)
    whole = shutil.copytree(unkempt.storage.url, tmp_path / "whole")
    status, total = run_killed(str(whole), 10**6)
    assert status == 0
    assert total >= 12
    for fatal in range(shard, total, 2):
        folder = shutil.copytree(unkempt.storage.url, tmp_path / f"killed-{fatal}")
        assert run_killed(str(folder), fatal) == (-signal.SIGKILL, "")
        lake = build_lake(folder, retention_hours=RETENTION)
        assert read(lake) == rows, f"killed at boundary {fatal} of {total}"
        assert maintain(lake, STUDY).is_complete
        assert read(lake) == rows
        assert len(live_files(lake)) == 1
        for name in data_files(lake) - live_files(lake):
            os.utime(Path(lake.uri(STUDY), name), (time.time() - (RETENTION + 1) * 3600,) * 2)
        maintain(lake, STUDY)
        assert len(data_files(lake)) == len(data_files(build_lake(whole)))
        assert read(lake) == rows
