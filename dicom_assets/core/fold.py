"""The law: of all rows that share a key, the newest is what counts.

Every function here gives the same result for any order and any repetition of its rows.
"""

from collections.abc import Sequence

import pyarrow as pa

_PLACE = "_place"


def newest_rows(rows: pa.Table, key: Sequence[str], order: Sequence[str]) -> pa.Table:
    """For every key its newest row: greatest by the first of `order`, then by the next; oldest key first."""
    return summarize_newest(rows, key, order, [])[0]


def summarize_newest(
    rows: pa.Table, key: Sequence[str], order: Sequence[str], totals: Sequence[tuple[str | list[str], str]]
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
