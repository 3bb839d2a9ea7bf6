"""Tables that list a lake's tables, and a table's columns."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from dicom_assets.core.columns.schema import SERVICE, Table
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.query.output import name_type


def list_tables(lakes: Mapping[str, Lake], tables: Iterable[Mapping[str, Snapshot]]) -> pa.Table:
    """Return a table with one row per table: its name, number of rows, version and location.

    A table of one of several services has the name `SERVICE.TABLE`.
    """
    return pa.Table.from_pylist(
        [
            {
                "table": ".".join(filter(None, [service, each.table.name])),
                "rows": each.row_count,
                "version": each.version,
                "location": lakes[service].uri(each.table),
            }
            for by_service in tables
            for service, each in by_service.items()
        ],
        pa.schema([("table", pa.string()), ("rows", pa.int64()), ("version", pa.int64()), ("location", pa.string())]),
    )


def list_columns(by_service: Mapping[str, Snapshot], table: Table) -> pa.Table:
    """Return a table with one row per stored column: its name, type, DICOM tag and meaning."""
    declared = {column.name: column for column in (SERVICE, *table.columns)}
    stored = pa.unify_schemas([each.schema.remove_metadata() for each in by_service.values()])
    rows = [
        {
            "column": field.name,
            "type": name_type(field.type),
            "dicomTag": column.tag if column else None,
            "meaning": column.description if column else None,
        }
        for field in (stored if "" in by_service else [SERVICE.arrow, *stored])
        for column in [declared.get(field.name)]
    ]
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]]))
