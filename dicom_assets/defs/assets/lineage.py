"""Column lineage: for each column of a table, the source column in the upstream table."""

import dagster as dg

from dicom_assets.core.columns.schema import (
    CHANGE_FEED,
    FILE_INDEX,
    INSTANCE,
    METADATA_UNREADABLE,
    SERIES,
    STUDY,
    Table,
)
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE, find_source
from dicom_assets.defs.naming import PLAIN, Naming

UPSTREAM = {
    **dict.fromkeys((INSTANCE.name, HEALTHCARE_INSTANCE.name), CHANGE_FEED.name),
    **dict.fromkeys((SERIES.name, STUDY.name, FILE_INDEX.name), INSTANCE.name),
}
"""Upstream table by table name."""

_RENAMED = {
    (INSTANCE.name, "lastModifiedTimestamp"): "timestamp",
    (INSTANCE.name, METADATA_UNREADABLE.name): "metadata",
    (SERIES.name, "instanceCount"): "sopInstanceUid",
    (STUDY.name, "instanceCount"): "sopInstanceUid",
    (STUDY.name, "seriesCount"): "seriesInstanceUid",
    (STUDY.name, "modalitiesInStudy"): "modality",
    (FILE_INDEX.name, "fileUrl"): "filePath",
}


def build_lineage(table: Table, naming: Naming = PLAIN) -> dg.TableColumnLineage | None:
    """Return the source of each column; None for `change_feed`, which comes from the service."""
    if table.name not in UPSTREAM:
        return None
    upstream = naming.key(UPSTREAM[table.name])
    if table.name == HEALTHCARE_INSTANCE.name:
        sources = {column.name: find_source(column) for column in table.columns}
        return dg.TableColumnLineage({name: [dg.TableColumnDep(upstream, source)] for name, source in sources.items()})
    from_metadata = {column.name for column in table.attributes} if table.name == INSTANCE.name else set()

    def source(column: str) -> str:
        return "metadata" if column in from_metadata else _RENAMED.get((table.name, column), column)

    return dg.TableColumnLineage(
        {column.name: [dg.TableColumnDep(upstream, source(column.name))] for column in table.columns}
    )
