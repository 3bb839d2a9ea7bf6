"""Which tables a lake has, and which columns these have, as tables."""

from collections.abc import Iterable

import pyarrow as pa

from dicom_assets.adapters.delta import Lake, Snapshot
from dicom_assets.core.schema import Table, type_names


def list_tables(lake: Lake, snapshots: Iterable[Snapshot]) -> pa.Table:
    """One row for each table: its name, rows, version and place."""
    rows = [(each.table.name, each.row_count, each.version, lake.uri(each.table)) for each in snapshots]
    schema = pa.schema(
        [("table", pa.string()), ("rows", pa.int64()), ("version", pa.int64()), ("location", pa.string())]
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def list_columns(snapshot: Snapshot, table: Table) -> pa.Table:
    """One row for each stored column: its name, type, DICOM tag and meaning."""
    declared = {column.name: column for column in table.columns}
    rows = []
    for field in snapshot.schema:
        column = declared.get(field.name)
        kind = next((name for name, known in type_names.items() if known == field.type), str(field.type))
        meaning = column.description if column else None
        rows.append((field.name, kind, column.tag if column else None, meaning))
    schema = pa.schema([(name, pa.string()) for name in ("column", "type", "dicomTag", "meaning")])
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
