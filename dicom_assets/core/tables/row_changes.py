"""Row changes between two versions of a table, with the columns and values of Delta's change data feed."""

from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.tables.merge import align_rows, key_ids, rows_differ

CHANGE_TYPE = "_change_type"
COMMIT_VERSION = "_commit_version"


class ChangeType(StrEnum):
    """Type of a row's change."""

    INSERT = "insert"
    UPDATE = "update_postimage"
    DELETE = "delete"


def build_change_schema(table: pa.Schema) -> pa.Schema:
    """Return the schema of a table's changes: the table's columns, `_change_type` and `_commit_version`.

    `_commit_version` is the newer version, which the changes lead to.
    """
    return table.append(pa.field(CHANGE_TYPE, pa.string(), nullable=False)).append(
        pa.field(COMMIT_VERSION, pa.int64(), nullable=False)
    )


def mark_rows(rows: pa.Table, kind: ChangeType, version: int) -> pa.Table:
    """Return rows as changes of one type."""
    marks = [pa.repeat(pa.scalar(str(kind)), len(rows)), pa.repeat(pa.scalar(version, pa.int64()), len(rows))]
    return pa.Table.from_arrays([*rows.columns, *marks], schema=build_change_schema(rows.schema))


def build_changes(old: pa.Table, new: pa.Table, key: tuple[str, ...], version: int) -> pa.Table:
    """Return the rows that differ between two versions: deleted rows from the older version, others from the newer.

    Equal rows are left out.

    Args:
        old: some rows of the older version, each key at most once.
        new: rows of the newer version, each key at most once: every row whose key is in `old`, and any others.
        key: names of the table's key columns.
        version: number of the newer version.
    """
    old = align_rows(old, new.schema)
    old_ids, new_ids = key_ids(old, key), key_ids(new, key)
    deleted = old.filter(pc.invert(pc.is_in(old_ids, value_set=new_ids)))
    place = pc.index_in(new_ids, value_set=old_ids)
    inserted = new.filter(pc.is_null(place))
    stays, place = pc.is_valid(place).combine_chunks(), place.drop_null()
    differs = pa.chunked_array([pa.repeat(pa.scalar(False), len(place))])
    for name in new.schema.names:  # column by column: whole rows side by side would be in memory twice
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
