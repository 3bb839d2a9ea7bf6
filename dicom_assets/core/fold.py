"""The law: of all rows that share a key, the newest is what counts.

Every function here gives the same result for any order and any repetition of its rows.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.schema import METADATA_UNREADABLE

_PLACE = "_place"
_READABLE = "_readable"
_Totals = Sequence[tuple[str | list[str], str]]


def newest_rows(rows: pa.Table, key: Sequence[str], order: Sequence[str]) -> pa.Table:
    """For every key its newest row: greatest by the first of `order`, then by the next; oldest key first."""
    return summarize_newest(rows, key, order, [])[0]


def summarize_newest(
    rows: pa.Table, key: Sequence[str], order: Sequence[str], totals: _Totals
) -> tuple[pa.Table, pa.Table]:
    """For every key its newest row, and in a second table, row beside row, totals over all its rows.

    Args:
        rows: any rows with the columns of `key` and `order`.
        key: columns that identify what a row is about.
        order: columns that tell the newer of two rows; the first decides, the next breaks its ties.
        totals: aggregations as `pyarrow.TableGroupBy.aggregate` takes them.
    """
    ordered = rows.sort_by([(column, "ascending") for column in order])
    placed = ordered.append_column(_PLACE, pa.array(range(len(ordered)), pa.int64()))
    groups = placed.group_by(list(key)).aggregate([(_PLACE, "max"), *totals]).sort_by(f"{_PLACE}_max")
    return ordered.take(groups[f"{_PLACE}_max"]), groups


def summarize_instances(instances: pa.Table, key: Sequence[str], totals: _Totals) -> tuple[pa.Table, pa.Table]:
    """Return for every series or study the instance that its attributes come from, and totals over all its instances.

    That is the newest instance whose metadata could be read; the newest one where none could.

    Args:
        instances: rows of `instance`.
        key: columns that identify a series or a study.
        totals: as of `summarize_newest`.
    """
    name = METADATA_UNREADABLE.name
    if name not in instances.column_names or instances[name].null_count == len(instances):
        return summarize_newest(instances, key, ["sequence"], totals)
    is_readable = pc.invert(pc.fill_null(instances[name], False)).cast(pa.int8())
    newest, sums = summarize_newest(
        instances.append_column(_READABLE, is_readable), key, [_READABLE, "sequence"], totals
    )
    return newest.drop_columns([_READABLE]), sums
