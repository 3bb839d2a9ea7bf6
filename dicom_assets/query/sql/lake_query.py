"""Keys of the instances that a query selects: SQL over the lake's tables, or a pyarrow expression."""

import re
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import INSTANCE, KEY
from dicom_assets.core.errors import LakeQueryError
from dicom_assets.lake.table.delta import Lake
from dicom_assets.query.sql.engine import ask

Query: TypeAlias = "str | pc.Expression"
"""A whole SELECT, the text after WHERE, or a pyarrow filter expression.

The text after WHERE and the filter expression use the columns of `instance`.
"""

_NAMES = [column.name for column in KEY]
_SOP_INSTANCE = KEY[3].name
_WHOLE_QUERY = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)


def query_instances(lake: Lake, query: Query) -> pa.Table:
    """Return the keys of the instances that the query selects, in the query's order.

    Returns:
        `sopInstanceUid`, and the other columns of the key that the query selects without nulls.

    Raises:
        LakeQueryError: the query cannot be understood, or selects no `sopInstanceUid`.
        LakeError: storage refuses, or another kind of table is at a table's place.
    """
    if isinstance(query, pc.Expression):
        return _filter(lake, query)
    if not _WHOLE_QUERY.match(query):
        query = f"SELECT {', '.join(_NAMES)} FROM {INSTANCE.name} WHERE (\n{query}\n)"  # noqa: S608 — whoever asks may read all of it
    keys = _select(lake, query)
    if _SOP_INSTANCE not in keys.column_names:
        raise LakeQueryError(
            f"The query gives no column {_SOP_INSTANCE}, so it names no instances. Select it; {', '.join(_NAMES[:3])} "
            "beside it find the files sooner."
        )
    if keys[_SOP_INSTANCE].null_count:
        raise LakeQueryError(f"The query gives rows without a {_SOP_INSTANCE}. Leave them out: add IS NOT NULL.")
    complete = [name for name in _NAMES if name in keys.column_names and not keys[name].null_count]
    return keys.select(complete)


def _select(lake: Lake, sql: str) -> pa.Table:
    answer = ask(lake, sql)
    names = [name for name in _NAMES if name in answer.schema.names]
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    return pa.concat_tables([empty, *(pa.table(batch).select(names).cast(empty.schema) for batch in answer)])


def _filter(lake: Lake, expression: pc.Expression) -> pa.Table:
    snapshot = lake.open(INSTANCE)
    schema = pa.schema([INSTANCE.schema.field(name) for name in _NAMES])
    if snapshot is None:
        return schema.empty_table()
    try:
        parts = [rows.filter(expression).select(_NAMES) for _, rows in snapshot.read()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        reason = type(error).__name__
    else:
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])
    raise LakeQueryError(
        f"The filter expression does not fit the columns of {INSTANCE.name} ({reason}). Names of columns are spelled "
        "as in docs/tables.md, capitals included, and dates and times compare with values of their own type."
    )
