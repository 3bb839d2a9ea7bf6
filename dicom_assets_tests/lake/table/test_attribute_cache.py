import json

import pyarrow as pa
from deltalake.transaction import AddAction

from dicom_assets.lake.table.attribute_cache import AttributeCache


def attributes(*values: int) -> pa.Table:
    return pa.table({"rows": pa.array([value for value in values for _ in range(10)], pa.int32())})


def files(*names: str) -> list[AddAction]:
    return [AddAction(name, 1, {}, 0, True, json.dumps({"numRecords": 10})) for name in names]


SCHEMA = attributes(0).schema


def test_attributes_of_a_commit_are_found_by_file():
    cache = AttributeCache()
    cache.keep(files("a", "b"), attributes(1, 2))
    assert (cache.find("a", SCHEMA), cache.find("b", SCHEMA)) == (attributes(1), attributes(2))
    assert cache.find("c", SCHEMA) is None


def test_other_columns_are_not_what_is_wanted():
    cache = AttributeCache()
    cache.keep(files("a"), attributes(1))
    assert cache.find("a", pa.schema([("columns", pa.int32())])) is None


def test_the_oldest_make_room():
    cache = AttributeCache(limit_bytes=2 * attributes(0).nbytes)
    for value, name in enumerate("abc"):
        cache.keep(files(name), attributes(value))
    assert [cache.find(name, SCHEMA) is None for name in "abc"] == [True, False, False]
