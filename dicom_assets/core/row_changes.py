"""What became of rows from one version of a table to another, in the words of Delta's change data feed."""

from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.merge import align_rows, key_ids, rows_differ

CHANGE_TYPE = "_change_type"
COMMIT_VERSION = "_commit_version"


class ChangeType(StrEnum):
    """What became of a row."""

    INSERT = "insert"
    UPDATE = "update_postimage"
    DELETE = "delete"


def change_schema(table: pa.Schema) -> pa.Schema:
    """The columns of a table's changes: its own, what became of the row, and the version that the changes lead to."""
    return table.append(pa.field(CHANGE_TYPE, pa.string(), nullable=False)).append(
        pa.field(COMMIT_VERSION, pa.int64(), nullable=False)
    )


def mark_rows(rows: pa.Table, kind: ChangeType, version: int) -> pa.Table:
    """Rows as changes of one kind."""
    marks = [pa.repeat(pa.scalar(str(kind)), len(rows)), pa.repeat(pa.scalar(version, pa.int64()), len(rows))]
    return pa.Table.from_arrays([*rows.columns, *marks], schema=change_schema(rows.schema))


def build_changes(old: pa.Table, new: pa.Table, key: tuple[str, ...], version: int) -> pa.Table:
    """The rows that differ: deleted ones as they were, others as they are. Equal rows cancel out.

    Args:
        old: some rows of the older version, each key at most once.
        new: rows of the newer one, each key at most once: all that have one of the old rows' keys, and any others.
        key: the table's.
        version: the newer one.
    """
    old = align_rows(old, new.schema)
    old_ids, new_ids = key_ids(old, key), key_ids(new, key)
    deleted = old.filter(pc.invert(pc.is_in(old_ids, value_set=new_ids)))
    place = pc.index_in(new_ids, value_set=old_ids)
    inserted = new.filter(pc.is_null(place))
    stays, place = pc.is_valid(place).combine_chunks(), place.drop_null()
    differs = pa.chunked_array([pa.repeat(pa.scalar(False), len(place))])
    for name in new.schema.names:  # one by one: whole rows, put beside one another, would be in memory twice
        if name not in key:
            pair = old.select([name]).take(place), new.select([name]).filter(stays)
            differs = pc.or_(differs, rows_differ(*pair, [name]))
    updated = new.filter(pc.replace_with_mask(stays, stays, differs.combine_chunks()))
    marked = (
        mark_rows(deleted, ChangeType.DELETE, version),
        mark_rows(updated, ChangeType.UPDATE, version),
        mark_rows(inserted, ChangeType.INSERT, version),
    )
    return pa.concat_tables(marked)
