"""Tables that list a lake's tables, and a table's columns."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from dicom_assets.core.columns.schema import SERVICE, Table, type_names
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot


def list_tables(lakes: Mapping[str, Lake], tables: Iterable[Mapping[str, Snapshot]]) -> pa.Table:
    """Return a table with one row per table: its name, number of rows, version and location.

    A table of one of several services has the name `SERVICE.TABLE`.
    """
    rows = [
        (
            ".".join(filter(None, [service, each.table.name])),
            each.row_count,
            each.version,
            lakes[service].uri(each.table),
        )
        for by_service in tables
        for service, each in by_service.items()
    ]
    schema = pa.schema(
        [("table", pa.string()), ("rows", pa.int64()), ("version", pa.int64()), ("location", pa.string())]
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def list_columns(by_service: Mapping[str, Snapshot], table: Table) -> pa.Table:
    """Return a table with one row per stored column: its name, type, DICOM tag and meaning."""
    declared = {column.name: column for column in (SERVICE, *table.columns)}
    stored = pa.unify_schemas([each.schema.remove_metadata() for each in by_service.values()])
    rows = []
    for field in stored if "" in by_service else [SERVICE.arrow, *stored]:
        column = declared.get(field.name)
        kind = next((name for name, known in type_names.items() if known == field.type), str(field.type))
        meaning = column.description if column else None
        rows.append((field.name, kind, column.tag if column else None, meaning))
    schema = pa.schema([(name, pa.string()) for name in ("column", "type", "dicomTag", "meaning")])
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
