"""The rows that a table must have for some keys, and the merge of these rows into stored rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import Table


@dataclass(frozen=True)
class Desired:
    """Rows that a table must have for some keys.

    The table must have no row for a key of `keys` that has no row in `rows`. Rows with other keys are not touched.
    """

    keys: pa.Table
    """The keys, each once, in the columns `Table.merge_columns`."""
    rows: pa.Table
    """The rows, at most one per key. Every row has a key of `keys`."""
    attributes: pa.Table | None = None
    """Attributes decoded from the rows' metadata, in the order of `rows`. None if not decoded yet; never stored."""


@dataclass(frozen=True)
class Change:
    """Result of a merge for some stored rows."""

    rows: pa.Table
    """Rows that replace the stored rows; the stored table itself if nothing changes."""
    found: pa.ChunkedArray
    """True if the key of each row of `Desired.rows` is among the stored keys, in the order of `Desired.rows`."""
    updated: int = 0
    deleted: int = 0

    @property
    def is_empty(self) -> bool:
        """True if no stored row changes."""
        return not (self.updated or self.deleted)


def key_ids(rows: pa.Table, key: tuple[str, ...]) -> pa.ChunkedArray:
    """Return one value per row, equal exactly where the keys are equal.

    A key of one column is its own value. A key of several columns becomes one text, with the length before each part.
    """
    if len(key) == 1:
        return rows[key[0]]
    parts = [part for name in key for part in (pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name])]
    return pc.binary_join_element_wise(*parts, ":")


def merge_rows(stored: pa.Table, desired: Desired, table: Table) -> Change:
    """Return the change that makes stored rows equal to the desired rows.

    A stored row whose fence is greater than the fence of the desired row is newer, and stays. A stored row that
    differs from the desired row only in ignored columns also stays.

    Args:
        stored: some rows of the table, each key at most once. Columns that the table does not declare are kept; rows
            that change have null in these columns.
        desired: rows for any keys.
        table: the table of the rows.
    """
    ids = key_ids(stored, table.key)
    place_in_keys = pc.index_in(ids, key_ids(desired.keys, table.key))
    touched = pc.is_valid(place_in_keys)
    row_ids = key_ids(desired.rows, table.key)
    found = pc.is_in(row_ids, value_set=ids)
    # Arrow's `take` fails on more than 2 GB of text, and the metadata of an hour may be larger. So rows are filtered by
    # stored keys first; `take` works on the result.
    rows = desired.rows.filter(found)
    place_in_rows = pc.index_in(ids, row_ids.filter(found))
    if table.fence is not None:
        newest = desired.keys[table.fence].take(place_in_keys)
        touched = pc.and_(touched, pc.fill_null(pc.less_equal(stored[table.fence], newest), False))
    deleted = pc.and_(touched, pc.is_null(place_in_rows))
    compared = [name for name in table.schema.names if name not in table.key and name not in table.ignored]
    differs = rows_differ(stored, rows.take(place_in_rows), compared)
    updated = pc.and_(pc.and_(touched, pc.is_valid(place_in_rows)), differs)
    counts = (pc.sum(updated).as_py() or 0, pc.sum(deleted).as_py() or 0)
    if not any(counts):
        return Change(stored, found)
    kept = stored.filter(pc.invert(pc.or_(updated, deleted)))
    replacements = rows.take(place_in_rows.filter(updated))
    return Change(pa.concat_tables([kept, align_rows(replacements, stored.schema)]), found, *counts)


def align_rows(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with the columns of a schema, in its order; a column that the rows lack is null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def rows_differ(old: pa.Table, new: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Return for each row whether it differs from the row at the same position in any of the columns.

    Args:
        old: rows of one side.
        new: rows of the other side, as many as in `old`. Null equals null only.
        columns: names of the columns to compare.
    """
    differs = pa.chunked_array([pa.repeat(pa.scalar(False), len(old))])
    for name in columns:
        one, other = old[name], new[name]
        different = pc.not_equal(one, other) if not pa.types.is_nested(one.type) else _nested_differ(one, other)
        different = pc.fill_null(different, pc.xor(pc.is_null(one), pc.is_null(other)))
        differs = pc.or_(differs, different)
    return differs


def _nested_differ(old: pa.ChunkedArray, new: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return for each row whether two nested values differ; null where either value is null.

    Arrow cannot compare lists, maps and structs, so Python compares the values row by row.
    """
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    return pa.chunked_array(
        [[None if one is None or other is None else one != other for one, other in pairs]], pa.bool_()
    )
