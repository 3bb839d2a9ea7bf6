import pyarrow as pa

from dicom_assets.core.tables.row_changes import CHANGE_TYPE, COMMIT_VERSION, ChangeType, build_changes, mark_rows

SCHEMA = pa.schema([("a", pa.string()), ("b", pa.string()), ("n", pa.int64()), ("list", pa.list_(pa.string()))])


def rows(*values: tuple) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, each, strict=False)) for each in values], SCHEMA)


def changes(old: pa.Table, new: pa.Table) -> list[tuple]:
    found = build_changes(old, new, ("a", "b"), 7)
    assert found.schema.names == [*new.schema.names, CHANGE_TYPE, COMMIT_VERSION]
    assert set(found[COMMIT_VERSION].to_pylist()) <= {7}
    return [(row[CHANGE_TYPE], row["a"], row["b"], row["n"]) for row in found.to_pylist()]


def test_rows_of_one_side_are_deleted_or_inserted_and_those_that_differ_updated():
    old = rows(("x", "1", 1), ("x", "2", 2), ("y", "1", 3), ("z", "1", None))
    new = rows(("z", "1", 4), ("x", "2", 2), ("w", "1", 5), ("y", "1", 6))
    assert changes(old, new) == [
        ("delete", "x", "1", 1), ("update_postimage", "z", "1", 4), ("update_postimage", "y", "1", 6),
        ("insert", "w", "1", 5),
    ]  # fmt: skip


def test_equal_rows_cancel_out_in_any_order_lists_and_nulls_included():
    assert changes(rows(("x", "1", 1, ["p"]), ("y", "1")), rows(("y", "1"), ("x", "1", 1, ["p"]))) == []


def test_list_that_differs_is_an_update():
    assert changes(rows(("x", "1", 1, ["p"])), rows(("x", "1", 1, ["q"]))) == [("update_postimage", "x", "1", 1)]


def test_keys_whose_parts_join_to_the_same_text_are_different():
    assert changes(rows(("x:1", "2", 1)), rows(("x", "1:2", 1))) == [
        ("delete", "x:1", "2", 1),
        ("insert", "x", "1:2", 1),
    ]


def test_column_that_the_older_version_lacks_is_null_in_it():
    old = pa.table({"a": ["x", "y"], "b": ["1", "1"], "n": pa.array([1, 2])})
    new = rows(("x", "1", 1, None), ("y", "1", 2, []))
    assert changes(old, new) == [("update_postimage", "y", "1", 2)]


def test_nothing_on_either_side_gives_nothing():
    assert changes(rows(), rows()) == []


def test_marked_rows_keep_their_columns():
    marked = mark_rows(rows(("x", "1", 1)), ChangeType.INSERT, 3)
    assert marked.to_pylist() == [{"a": "x", "b": "1", "n": 1, "list": None, CHANGE_TYPE: "insert", COMMIT_VERSION: 3}]
