"""Descriptions and metadata of the assets that are known before any run: location, columns, lineage, links."""

from typing import Any

import dagster as dg

from dicom_assets.config.project import REPOSITORY
from dicom_assets.core.columns.schema import Column, Table
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.assets.lineage import build_lineage
from dicom_assets.defs.naming import PLAIN, Naming

DESCRIPTIONS = {
    "change_feed": "One row is one entry of the service's change feed, verbatim: its metadata is the DICOM JSON as "
    "received. All other tables are derived from this one, without another request to the service. Reading an hour "
    "again replaces its rows with the service's current entries: late entries are added, and none is lost.",
    "instance": "One row is one live SOP instance with its current attributes. The row of an instance that changed in "
    "the run's hours comes from its newest entry in `change_feed`, of any hour: hours may run in any order, and "
    "repeatedly. An instance whose newest entry is a delete has no row. A value that cannot be converted is null, and "
    "counted.",
    "series": "One row is one series with at least one live instance, and the attributes of its newest instance.",
    "study": "One row is one study with at least one live instance, and the attributes of its newest instance.",
    "file_index": "One row is one live instance that has a DICOM file, with the location of the file.",
    HEALTHCARE_INSTANCE.name: "One row is one live SOP instance, in the layout of Fabric's healthcare data solutions. "
    "It holds the instances that `instance` holds, by the same rules. Every row has the instance's full metadata.",
}
"""Descriptions by table."""

_STANDARD = "https://dicom.nema.org/medical/dicom/current/output/chtml"

DOCUMENTS = {
    "change_feed": {
        "docs": f"{REPOSITORY}/docs/architecture.md#1-the-hour-is-read-change_feed",
        "docs/service": "https://learn.microsoft.com/azure/healthcare-apis/dicom/change-feed-overview",
        "docs/dicom_json": f"{_STANDARD}/part18/chapter_F.html",
    },
    "instance": {
        "docs": f"{REPOSITORY}/docs/architecture.md#2-the-law-is-applied-instance",
        "docs/dicom": f"{_STANDARD}/part03/chapter_A.html",
    },
    **{
        name: {"docs": f"{REPOSITORY}/docs/architecture.md#3-the-rest-follows-series-study-file_index"}
        for name in ("series", "study", "file_index")
    },
    HEALTHCARE_INSTANCE.name: {"docs": f"{REPOSITORY}/docs/healthcare.md"},
}
"""Links to documentation, by table."""


def describe_table(table: Table, uri: str, naming: Naming = PLAIN) -> dict[str, Any]:
    """Return a table's metadata: location, columns, lineage, key, links."""
    lineage = build_lineage(table, naming)
    return {
        "dagster/table_name": table.name,
        "dagster/uri": uri,
        "dagster/column_schema": describe_columns(table, lineage),
        **({} if lineage is None else {"dagster/column_lineage": lineage}),
        "key": ", ".join(table.key),
        **{name: dg.MetadataValue.url(url) for name, url in DOCUMENTS[table.name].items()},
    }


def describe_columns(table: Table, lineage: dg.TableColumnLineage | None) -> dg.TableSchema:
    """Return the table's columns for Dagster: type, meaning, and as tags the DICOM tag and the source column.

    Dagster's open-source UI does not draw column lineage, so the tags show it too.
    """
    sources = {} if lineage is None else lineage.deps_by_column

    def tags(column: Column) -> dict[str, str]:
        source = ", ".join(f"{of.asset_key.to_user_string()}.{of.column_name}" for of in sources.get(column.name, ()))
        return ({"dicom_tag": column.tag} if column.tag else {}) | ({"from": source} if source else {})

    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type_name,
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags=tags(column),
            )
            for column in table.columns
        ]
    )
