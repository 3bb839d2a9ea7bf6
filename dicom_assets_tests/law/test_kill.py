"""A run killed between any two steps, then run again: the tables are as if it had run once."""

import shutil
import signal

import pytest

from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.law.boundaries import forking
from dicom_assets_tests.law.killed_run import FIRST_HOUR, SECOND_HOUR, build_world, play
from dicom_assets_tests.law.world import hours, read_tables

SHARDS = 4


@pytest.fixture(scope="module")
def lake_of_first_hour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first-hour")
    with Service(seed=1) as service:
        play(service, FIRST_HOUR)
        world = build_world(service, str(folder))
        world.run_chain(hours(0))
    return folder, world.read


@pytest.fixture(scope="module")
def run_killed():
    with forking("dicom_assets_tests.law.killed_run") as run:
        yield run


# On each change every fourth boundary of a new lake and every second of a grown one; all of them in the deep tests.
NEW = [
    pytest.param(0, shard, id=f"new lake-{shard}", marks=[pytest.mark.deep] if shard else []) for shard in range(SHARDS)
]
GROWN = [
    pytest.param(1, shard, id=f"grown lake-{shard}", marks=[pytest.mark.deep] if shard % 2 else [])
    for shard in range(SHARDS)
]


@pytest.mark.parametrize(("hour", "shard"), [*NEW, *GROWN])
def test_a_run_killed_at_any_boundary_and_run_again_leaves_the_right_tables(
    hour, shard, lake_of_first_hour, run_killed, tmp_path
):
    first_hour, read_before = lake_of_first_hour

    def new_lake(name):
        folder = tmp_path / name
        if hour == 1:
            shutil.copytree(first_hour, folder)
        return folder

    status, total = run_killed(str(new_lake("whole")), hour, 10**6)
    assert status == 0
    assert total >= 20
    for fatal in range(shard, total, SHARDS):
        folder = new_lake(f"killed-{fatal}")
        assert run_killed(str(folder), hour, fatal) == (-signal.SIGKILL, "")
        with Service(seed=1) as service:
            play(service, FIRST_HOUR)
            world = build_world(service, str(folder))
            if hour == 1:
                play(service, SECOND_HOUR)
                world.read.extend(read_before)
            world.run_chain(hours(hour))
            assert read_tables(world.lake) == world.expected(), f"killed at boundary {fatal} of {total}"
