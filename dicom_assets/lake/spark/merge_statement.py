"""The MERGE statement that writes staged rows into a table: the rules of `core/tables/merge.py` in SQL.

The statement is built from the table's columns only. Of the rows' values it contains only hours and sequences, so that
no patient data reaches the logs and the history of the engine that runs it.
"""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import Table
from dicom_assets.lake.files.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.spark.staging import LIVES


def build_merge(
    table: Table,
    stored: Sequence[str],
    target: str,
    source: str,
    keys: pa.Table | None = None,
    *,
    scope: Scope = WHOLE_TABLE,
) -> str:
    """Return the MERGE statement.

    A stored row with a greater fence is newer, and stays. A stored row that differs only in the table's ignored columns
    stays too, so that there is no commit if nothing differs. In rows that change, columns that the table does not
    declare become null.

    Args:
        table: the table of the rows.
        stored: names of the columns that the table has in the lake.
        target: location of the table.
        source: location of the Parquet file with the table's columns and `LIVES`.
        keys: keys of the merged rows, in the columns `Table.merge_columns`: files outside their ranges are skipped,
            where the table declares such columns. None for no ranges.
        scope: rows of the table that are merged; other partitions are skipped.
    """
    owner = {quote(name): f"'{value}'" for name, value in scope.partition.items()}
    declared = table.schema.names
    compared = [name for name in declared if name not in table.key and name not in table.ignored]

    def at_key(row: str) -> str:
        matches = [f"{row}.{name} = {value}" for name, value in owner.items()]
        matches += [f"{row}.{quote(name)} = s.{quote(name)}" for name in table.key]
        return " AND ".join([*matches, *(f"{row}.{limit}" for limit in _ranges(table, keys))])

    def is_older(row: str) -> str:
        return f"{row}.{quote(table.fence)} <= s.{quote(table.fence)}" if table.fence else "TRUE"

    def is_same(row: str) -> str:
        pairs = [f"{_comparable(table, row, name)} <=> {_comparable(table, 's', name)}" for name in compared]
        return " AND ".join(pairs) or "TRUE"

    updates = [f"{quote(name)} = s.{quote(name)}" for name in declared if name not in table.key]
    updates += [f"{quote(name)} = NULL" for name in stored if name not in declared]
    update = f"WHEN MATCHED AND s.{LIVES} AND {is_older('t')} AND NOT ({is_same('t')}) THEN UPDATE SET "
    return "\n".join(
        [
            f"MERGE INTO delta.{quote(target)} AS t",
            # Delta's MERGE rewrites the file of every row that it matches, even if no clause applies to the row.
            f"USING (SELECT s.* FROM parquet.{quote(source)} AS s",  # noqa: S608 — names are quoted
            f"LEFT JOIN delta.{quote(target)} AS o ON {at_key('o')}",
            f"WHERE CASE WHEN o.{quote(table.key[0])} IS NULL THEN s.{LIVES}",
            f"ELSE {is_older('o')} AND NOT (s.{LIVES} AND {is_same('o')}) END) AS s",
            f"ON {at_key('t')}",
            f"WHEN MATCHED AND NOT s.{LIVES} AND {is_older('t')} THEN DELETE",
            *([update + ", ".join(updates)] if updates else []),
            f"WHEN NOT MATCHED AND s.{LIVES} THEN INSERT ({', '.join([*owner, *map(quote, declared)])})",
            f"VALUES ({', '.join([*owner.values(), *(f's.{quote(name)}' for name in declared)])})",
        ]
    )


def quote(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return f"`{name.replace('`', '``')}`"


def _comparable(table: Table, row: str, name: str) -> str:
    """Return an expression for a column that Spark can compare: a map is compared as JSON."""
    column = f"{row}.{quote(name)}"
    return f"to_json({column})" if pa.types.is_map(table.schema.field(name).type) else column


def _ranges(table: Table, keys: pa.Table | None) -> list[str]:
    if keys is None:
        return []
    ranges = []
    for name in table.ranged:
        span = pc.min_max(keys[name])
        ranges.append(f"{quote(name)} BETWEEN {_literal(span['min'].as_py())} AND {_literal(span['max'].as_py())}")
    return ranges


def _literal(value: datetime | int) -> str:
    return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S}+00:00'" if isinstance(value, datetime) else str(value)
