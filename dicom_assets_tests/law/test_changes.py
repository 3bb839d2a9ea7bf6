"""The changes between any two versions, applied to a copy of the first, give the second: after any history of runs."""

import tempfile
from itertools import cycle

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given

from dicom_assets.core.columns.schema import TABLES, Table
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake import table_changes
from dicom_assets.lake.files import data_file
from dicom_assets.lake.table_changes import open_changes
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.test_order import HOURS, KEYS, PARTITIONS, attributes, law, moments, windows
from dicom_assets_tests.law.test_order import apply as happen
from dicom_assets_tests.law.world import World, hours

FEW = KEYS[:3]
"""So few that most steps change what others stored."""
some_changes = st.one_of(
    st.tuples(st.just("store"), st.just(PARTITIONS[0]), st.sampled_from(FEW), attributes),
    st.tuples(st.just("update"), st.just(PARTITIONS[0]), st.sampled_from(FEW), st.sampled_from("AB")),
    st.tuples(st.just("delete"), st.just(PARTITIONS[0]), st.sampled_from(FEW), st.integers(1, 3)),
)
steps = st.lists(st.tuples(some_changes, moments), min_size=1, max_size=4)
histories = st.lists(st.tuples(steps, windows, st.booleans()), min_size=2, max_size=4)
strides = st.lists(st.integers(1, 4), min_size=1, max_size=3)
MARKS = ("_change_type", "_commit_version")
Copy = dict[tuple, dict]


def copy_of(world: World, table: Table, version: int) -> Copy:
    rows = world.lake.open(table, version).read_table().to_pylist()
    return {tuple(row[name] for name in table.key): row for row in rows}


def apply(copy: Copy, changes: list[dict], table: Table) -> None:
    """As a consumer would, and as strictly as can be: each kind of change must find what it says."""
    keys = [tuple(row[name] for name in table.key) for row in changes]
    assert len(set(keys)) == len(keys)
    for key, change in zip(keys, changes, strict=True):
        row = {name: value for name, value in change.items() if name not in MARKS}
        if change["_change_type"] == "delete":
            assert copy.pop(key) == row
        else:
            assert (key in copy) == (change["_change_type"] == "update_postimage")
            assert copy.get(key) != row
            copy[key] = row


def check(history, strides, part_bytes: int) -> None:
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        world = World(service, build_lake(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_file, "JOINED_FILES", 2)
            patch.setattr(table_changes, "PART_BYTES", part_bytes)
            for number, key in enumerate(FEW):
                happen(world.service, ("store", PARTITIONS[0], key, {}), (0, number))
            world.run_chain(hours(0, HOURS))
            for steps, (first, count), compacts in history:
                for step in steps:
                    happen(world.service, *step)
                world.run_chain(hours(0, HOURS))
                world.run_chain(hours(first, count))  # read again
                if compacts:
                    for table in TABLES:
                        DeltaTable(world.lake.uri(table)).optimize.compact()
            for table in TABLES:
                newest = world.lake.version(table)
                copy: Copy = {}
                since, lengths = None, cycle(strides)
                while since != newest:
                    version = 0 if since is None else min(newest, since + next(lengths))
                    changes = open_changes(world.lake, table, since, version)
                    assert (changes.since, changes.version) == (-1 if since is None else since, version)
                    apply(copy, pa.table(changes).to_pylist(), table)
                    assert copy == copy_of(world, table, version), table.name
                    since = changes.version


@pytest.mark.parametrize("part_bytes", [1, 2**30])
@given(history=histories, strides=strides)
@law(8)
def test_changes_bring_a_copy_from_any_version_to_any_later_one(part_bytes, history, strides):
    check(history, strides, part_bytes)


@pytest.mark.deep
@pytest.mark.parametrize("shard", range(10))
@given(history=histories, strides=strides)
@law(200)
def test_changes_bring_a_copy_along_through_thousands_of_histories(shard, history, strides):
    check(history, strides, (1, 2**30)[shard % 2])
