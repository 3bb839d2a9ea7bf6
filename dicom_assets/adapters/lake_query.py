"""Which instances a query over the lake's tables names: SQL by delta-rs's own engine, or a pyarrow expression."""

import re
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import QueryBuilder
from deltalake.exceptions import DeltaError

from dicom_assets.adapters.delta import Lake
from dicom_assets.core.errors import LakeQueryError
from dicom_assets.core.schema import INSTANCE, KEY, TABLES

Query: TypeAlias = "str | pc.Expression"
"""A whole SELECT, the text after WHERE, or a pyarrow filter expression; the last two over the columns of `instance`."""

_NAMES = [column.name for column in KEY]
_SOP_INSTANCE = KEY[3].name
_WHOLE_QUERY = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_LITERAL = re.compile(r"""'([^']+)|"([^"]+)""")


def query_instances(lake: Lake, query: Query) -> pa.Table:
    """The keys of the instances that the query gives, in its order: `sopInstanceUid`, and what else it has of the key.

    Raises:
        LakeQueryError: the query cannot be understood, or gives no `sopInstanceUid`.
        LakeError: storage refuses, or a table is not ours.
    """
    if isinstance(query, pc.Expression):
        return _filter(lake, query)
    if not _WHOLE_QUERY.match(query):
        query = f"SELECT {', '.join(_NAMES)} FROM {INSTANCE.name} WHERE ({query}\n)"  # noqa: S608 — whoever asks may read all of it
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
    builder = QueryBuilder()
    for table in TABLES:
        if re.search(rf"\b{table.name}\b", sql) and (snapshot := lake.open(table)) is not None:
            builder = builder.register(table.name, snapshot.delta)
    try:
        rows = pa.table(builder.execute(sql))
    except (DeltaError, pa.ArrowInvalid, ValueError, OSError) as error:
        reason = _without_literals(str(error).partition("\n")[0] or type(error).__name__, sql)[:300]
    else:
        return pa.table({name: rows[name].cast(pa.string()) for name in _NAMES if name in rows.column_names})
    raise LakeQueryError(
        f"The lake could not answer the query: {reason}. Tables are {', '.join(table.name for table in TABLES)}, as "
        "far as they were materialised; names of columns are spelled as in the README, capitals included."
    )


def _without_literals(reason: str, sql: str) -> str:
    """The reason without what the query has in quotes: that may be a patient's name."""
    for pair in _LITERAL.findall(sql):
        reason = reason.replace("".join(pair), "…")
    return reason


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
        "as in the README, capitals included, and dates and times compare with values of their own type."
    )
