"""What a table must hold for some keys, and how stored rows change to hold it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.schema import Table


@dataclass(frozen=True)
class Desired:
    """What a table must hold for some keys: a key without a row must be absent, other keys are not concerned."""

    keys: pa.Table
    """The keys, each once; beside the key's columns the table's fence where it has one."""
    rows: pa.Table
    """The rows, at most one per key and each of one of the keys."""
    attributes: pa.Table | None = None
    """What the rows' metadata says, row beside row, where it was decoded already. It is not stored."""
    encoded: Sequence[pa.Buffer] = ()
    """Parquet files with these rows in their order, where they were encoded already: `rows` lack columns then."""


@dataclass(frozen=True)
class Change:
    """What becomes of some stored rows."""

    rows: pa.Table
    """The rows to store in their place; the stored table itself when nothing changes."""
    found: pa.ChunkedArray
    """For each of `Desired.rows` whether its key was among the stored ones."""
    updated: int = 0
    deleted: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the stored rows stay as they are."""
        return not (self.updated or self.deleted)


def key_ids(rows: pa.Table, key: tuple[str, ...]) -> pa.ChunkedArray:
    """One value per row, equal where the keys are equal: the column itself, or the texts with their lengths."""
    if len(key) == 1:
        return rows[key[0]]
    parts = [part for name in key for part in (pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name])]
    return pc.binary_join_element_wise(*parts, ":")


def merge_rows(stored: pa.Table, desired: Desired, table: Table) -> Change:
    """How stored rows change so that they hold what is desired.

    A stored row with a greater fence than the desired one is newer, and stays. A row that differs in nothing but the
    table's ignored columns has not changed, and stays too.

    Args:
        stored: some of the table's rows, each key at most once. Columns that the table does not declare are kept, with
            null in rows that change.
        desired: for any keys.
        table: what the rows are of.
    """
    ids = key_ids(stored, table.key)
    place_in_keys = pc.index_in(ids, key_ids(desired.keys, table.key))
    touched = pc.is_valid(place_in_keys)
    row_ids = key_ids(desired.rows, table.key)
    found = pc.is_in(row_ids, value_set=ids)
    # Arrow takes no rows out of more than 2 GB of text, and an hour's metadata may be more: out of those found it does.
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
    """The rows in another schema's columns and order; null where they lack a column."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def rows_differ(old: pa.Table, new: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """For each row whether one of the columns differs from that of the row beside it."""
    differs = pa.chunked_array([pa.repeat(pa.scalar(False), len(old))])
    for name in columns:
        one, other = old[name], new[name]
        different = pc.not_equal(one, other) if not pa.types.is_nested(one.type) else _nested_differ(one, other)
        different = pc.fill_null(different, pc.xor(pc.is_null(one), pc.is_null(other)))
        differs = pc.or_(differs, different)
    return differs


def _nested_differ(old: pa.ChunkedArray, new: pa.ChunkedArray) -> pa.ChunkedArray:
    """Arrow compares no lists, maps and structs: row by row, null where either is null."""
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    return pa.chunked_array(
        [[None if one is None or other is None else one != other for one, other in pairs]], pa.bool_()
    )
