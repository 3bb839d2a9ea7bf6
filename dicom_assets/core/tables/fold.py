"""The law of the tables: of all rows with one key, only the newest row counts.

The result of every function here depends neither on the order of the rows nor on repeated rows.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import METADATA_UNREADABLE

_PLACE = "_place"
_READABLE = "_readable"
_Totals = Sequence[tuple[str | list[str], str]]


def find_newest_rows(rows: pa.Table, key: Sequence[str], order: Sequence[str]) -> pa.Table:
    """Return the newest row of every key; see `summarize_newest`."""
    return summarize_newest(rows, key, order, [])[0]


def summarize_newest(
    rows: pa.Table, key: Sequence[str], order: Sequence[str], totals: _Totals
) -> tuple[pa.Table, pa.Table]:
    """Return the newest row of every key, and totals over all rows of every key.

    Args:
        rows: any rows with the columns of `key` and `order`.
        key: columns that identify the subject of a row.
        order: columns that decide which row is newer: the row with the greater value in the first column. Each further
            column decides between rows that are equal in the columns before it.
        totals: aggregations as `pyarrow.TableGroupBy.aggregate` takes them.

    Returns:
        Two tables of equal length: the newest row of each key, from the oldest to the newest by `order`, and the
        totals of each key, in this order too.
    """
    ordered = rows.sort_by([(column, "ascending") for column in order])
    placed = ordered.append_column(_PLACE, pa.array(range(len(ordered)), pa.int64()))
    groups = placed.group_by(list(key)).aggregate([(_PLACE, "max"), *totals]).sort_by(f"{_PLACE}_max")
    return ordered.take(groups[f"{_PLACE}_max"]), groups


def summarize_instances(instances: pa.Table, key: Sequence[str], totals: _Totals) -> tuple[pa.Table, pa.Table]:
    """Return the instance that gives each series or study its attributes, and totals over all its instances.

    This instance is the newest one with readable metadata. If no instance has readable metadata, it is the newest one.

    Args:
        instances: rows of `instance`.
        key: columns that identify a series or a study.
        totals: aggregations, as for `summarize_newest`.

    Returns:
        Two tables of equal length and order: the instances, and the totals.
    """
    name = METADATA_UNREADABLE.name
    if name not in instances.column_names or instances[name].null_count == len(instances):
        return summarize_newest(instances, key, ["sequence"], totals)
    is_readable = pc.invert(pc.fill_null(instances[name], False)).cast(pa.int8())
    newest, sums = summarize_newest(
        instances.append_column(_READABLE, is_readable), key, [_READABLE, "sequence"], totals
    )
    return newest.drop_columns([_READABLE]), sums
