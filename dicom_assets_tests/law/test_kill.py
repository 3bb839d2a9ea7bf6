"""A run killed between any two steps, then run again: the tables are as if it had run once."""

import shutil
import signal
import subprocess
import sys

import pytest

from dicom_assets.emulator.store import Service
from dicom_assets_tests.law.killed_run import FIRST_HOUR, SECOND_HOUR, build_world, play
from dicom_assets_tests.law.world import hours, read_tables

SHARDS = 4


def run_killed(folder, hour: int, fatal: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_assets_tests.law.killed_run", str(folder), str(hour), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def lake_of_first_hour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first-hour")
    with Service(seed=1) as service:
        play(service, FIRST_HOUR)
        world = build_world(service, str(folder))
        world.run_chain(hours(0))
    return folder, world.read


def boundaries(folder, hour: int) -> int:
    finished = run_killed(folder, hour, 10**6)
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout)


# On each change every fourth boundary of a new lake and every second of a grown one; all of them in the deep tests.
NEW = [
    pytest.param(0, shard, id=f"new lake-{shard}", marks=[pytest.mark.deep] if shard else []) for shard in range(SHARDS)
]
GROWN = [
    pytest.param(1, shard, id=f"grown lake-{shard}", marks=[pytest.mark.deep] if shard % 2 else [])
    for shard in range(SHARDS)
]


@pytest.mark.parametrize(("hour", "shard"), [*NEW, *GROWN])
def test_a_run_killed_at_any_boundary_and_run_again_leaves_the_right_tables(hour, shard, lake_of_first_hour, tmp_path):
    first_hour, read_before = lake_of_first_hour

    def new_lake(name):
        folder = tmp_path / name
        if hour == 1:
            shutil.copytree(first_hour, folder)
        return folder

    total = boundaries(new_lake("whole"), hour)
    assert total >= 20
    for fatal in range(shard, total, SHARDS):
        folder = new_lake(f"killed-{fatal}")
        assert run_killed(folder, hour, fatal).returncode == -signal.SIGKILL
        with Service(seed=1) as service:
            play(service, FIRST_HOUR)
            world = build_world(service, str(folder))
            if hour == 1:
                play(service, SECOND_HOUR)
                world.read.extend(read_before)
            world.run_chain(hours(hour))
            assert read_tables(world.lake) == world.expected(), f"killed at boundary {fatal} of {total}"
