"""One merge into a Delta table, with deletes."""

from collections.abc import Sequence

import pyarrow as pa
from common import Rows
from deltalake import DeltaTable


def merge(path: str, rows: Rows, key: Sequence[str]) -> None:
    """Merges rows, each with `deleted`, into the table at the path, which is made if need be."""
    if not rows:
        return
    schema = pa.schema(
        [pa.field(name, {"sequence": pa.int64(), "deleted": pa.bool_()}.get(name, pa.string())) for name in rows[0]]
    )
    if not DeltaTable.is_deltatable(path):
        DeltaTable.create(path, pa.schema([field for field in schema if field.name != "deleted"]))
    values = {name: f"s.{name}" for name in schema.names if name != "deleted"}
    (
        DeltaTable(path)
        .merge(
            pa.Table.from_pylist(rows, schema),
            " AND ".join(f"t.{name} = s.{name}" for name in key),
            source_alias="s",
            target_alias="t",
        )
        .when_matched_delete("s.deleted AND s.sequence >= t.sequence")
        .when_matched_update(values, "s.sequence >= t.sequence")
        .when_not_matched_insert(values, "NOT s.deleted")
        .execute()
    )
