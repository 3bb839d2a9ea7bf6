import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from dicom_assets.core.columns.schema import Column, Table
from dicom_assets.core.tables.merge import Desired, align_rows, key_ids, merge_rows

PLAIN = Table(
    "plain",
    "a row",
    ("a", "b"),
    (
        Column("a", pa.string(), "", nullable=False),
        Column("b", pa.string(), "", nullable=False),
        Column("order", pa.int64(), "", nullable=False),
        Column("value", pa.string(), ""),
        Column("list", pa.list_(pa.string()), ""),
        Column("read", pa.int64(), "", nullable=False),
    ),
    ignored=frozenset({"read"}),
)
FENCED = Table("fenced", "a row", PLAIN.key, PLAIN.columns, fence="order", ignored=PLAIN.ignored)
STORED_SCHEMA = PLAIN.schema.append(pa.field("undeclared", pa.string()))

keys = st.tuples(st.sampled_from(["1", "1:1", "11"]), st.sampled_from(["1", "1:1", "11", ""]))
values = st.fixed_dictionaries(
    {
        "order": st.integers(0, 2),
        "value": st.sampled_from([None, "", "x"]),
        "list": st.sampled_from([None, [], ["x"], ["x", None]]),
        "read": st.integers(0, 1),
    }
)
tables_of = st.dictionaries(keys, values, max_size=6)


def model(stored: dict, desired: dict, fenced: bool) -> tuple[dict, int, int]:
    """The rows that a merge leaves, and how many it changed and took away, in plain Python."""
    left, updated, deleted = dict(stored), 0, 0
    for key, (order, new) in desired.items():
        old = stored.get(key)
        if old is None or (fenced and old["order"] > order):
            continue
        if new is None:
            del left[key]
            deleted += 1
        elif any(old[name] != new[name] for name in ("order", "value", "list")):
            left[key] = new | {"undeclared": None}
            updated += 1
    return left, updated, deleted


def to_table(rows: dict, schema: pa.Schema, chunk: int) -> pa.Table:
    found = [{"a": key[0], "b": key[1]} | row for key, row in rows.items()]
    parts = [pa.Table.from_pylist(found[at : at + chunk], schema) for at in range(0, len(found), chunk)]
    return pa.concat_tables([schema.empty_table(), *parts])


def to_dict(rows: pa.Table) -> dict:
    return {(row.pop("a"), row.pop("b")): row for row in rows.to_pylist()}


@given(
    stored=tables_of,
    desired=st.dictionaries(keys, st.tuples(st.integers(0, 2), st.none() | values), max_size=6),
    fenced=st.booleans(),
    chunk=st.integers(1, 3),
)
@settings(max_examples=150)
def test_merge_leaves_what_a_dict_would_hold(stored, desired, fenced, chunk):
    stored = {key: row | {"undeclared": "kept"} for key, row in stored.items()}
    desired = {key: (row["order"] if row else order, row) for key, (order, row) in desired.items()}
    rows = {key: row for key, (_, row) in desired.items() if row is not None}
    orders = {key: {"order": order} for key, (order, _) in desired.items()}
    change = merge_rows(
        to_table(stored, STORED_SCHEMA, chunk),
        Desired(to_table(orders, PLAIN.schema, chunk).select(["a", "b", "order"]), to_table(rows, PLAIN.schema, chunk)),
        FENCED if fenced else PLAIN,
    )
    assert (to_dict(change.rows), change.updated, change.deleted) == model(stored, desired, fenced)
    assert change.rows.schema == STORED_SCHEMA
    assert len(change.rows) == len(to_dict(change.rows))
    assert change.found.to_pylist() == [key in stored for key in rows]
    assert change.is_empty == (change.updated + change.deleted == 0)


def test_rows_that_do_not_change_are_the_stored_ones():
    stored = to_table({("1", "2"): {"order": 1, "read": 5}}, STORED_SCHEMA, 1)
    desired = to_table({("1", "2"): {"order": 1, "read": 6}}, PLAIN.schema, 1)
    change = merge_rows(stored, Desired(desired.select(["a", "b"]), desired), PLAIN)
    assert change.rows is stored
    assert change.is_empty


def test_key_of_one_column_is_the_column():
    rows = pa.table({"sequence": [3, 1, 2]})
    assert key_ids(rows, ("sequence",)).to_pylist() == [3, 1, 2]


@pytest.mark.parametrize("keys", [[("1", "11"), ("11", "1")], [("a:1", "b"), ("a", "1:b")], [("", "1"), ("1", "")]])
def test_keys_of_several_columns_are_never_confused(keys):
    rows = pa.table({"a": [key[0] for key in keys], "b": [key[1] for key in keys]})
    assert len(set(key_ids(rows, ("a", "b")).to_pylist())) == len(keys)


def test_rows_are_aligned_to_columns_types_and_order():
    rows = pa.table({"b": pa.array([1], pa.int32()), "gone": [1], "a": pa.array(["x"], pa.large_string())})
    schema = pa.schema([("a", pa.string()), ("b", pa.int64()), ("new", pa.list_(pa.string()))])
    aligned = align_rows(rows, schema)
    assert aligned.schema == schema
    assert aligned.to_pylist() == [{"a": "x", "b": 1, "new": None}]


def test_more_text_than_arrow_takes_rows_from_is_merged():
    """More than 2 GB in a column, all of it one buffer: an hour's metadata may be as large."""
    table = Table(
        "t", "a row", ("key",), (Column("key", pa.int64(), "", nullable=False), Column("text", pa.string(), ""))
    )
    ends = pa.array([*(2**28 * number for number in range(8)), 2**31 - 1], pa.int32())
    text = pa.StringArray.from_buffers(8, ends.buffers()[1], pa.allocate_buffer(2**31 - 1))
    rows = pa.Table.from_arrays(
        [pa.chunked_array([list(range(16))], pa.int64()), pa.chunked_array([text, text])], schema=table.schema
    )
    stored = pa.Table.from_arrays([pa.array([99], pa.int64()), pa.array(["x"])], schema=table.schema)
    change = merge_rows(stored, Desired(rows.select(["key"]), rows), table)
    assert change.is_empty
    assert not any(change.found.to_pylist())
