"""Check that the lake is the one in Dagster's history: the recorded tables, no older than recorded, with their rows.

Dagster treats a materialised hour as done. In a lake that was deleted, restored from a backup or confused with another
lake, such hours would stay missing for ever, while new hours arrive as usual.
"""

from collections.abc import Iterable
from datetime import datetime

import dagster as dg

from dicom_assets.core.columns.schema import CHANGE_FEED, Table
from dicom_assets.core.errors import LakeLostError
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.history.hour_log import HourLog
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.derive.counts import count_stored
from dicom_assets.lake.table.delta import Lake

TABLE_VERSION = "table_version"
"""Metadata entry of a materialization: the table's version after the run's writes."""
TABLE_ID = "table_id"
"""Metadata entry of a materialization: the id of the Delta table that was written."""

_LOOKED_THROUGH = 1000
"""Most materializations that are searched for a table version. In a range only the last hour's materialization has a
version, and materializations of failed runs have none."""

REMEDY = (
    "Hours that Dagster takes for done would stay missing, so nothing is read. Look at DICOM_STORAGE_URL, "
    "DICOM_CONTAINER_NAME and the tables' paths, or bring the tables back. If they are gone for good, run "
    "`dicom-assets adopt --forget`: Dagster then knows what the lake holds, and the other hours are read anew."
)


def require_same_lake(
    instance: dg.DagsterInstance, lake: Lake, tables: Iterable[Table], naming: Naming = PLAIN
) -> None:
    """Check that each table is the one in Dagster's history, and not at an older version.

    Raises:
        LakeLostError: A table is missing, another one, or older; the text names all such tables.
        LakeUnavailableError: Storage refuses the request.
    """
    problems = [problem for table in tables if (problem := _find_problem(instance, lake, table, naming))]
    if problems:
        raise LakeLostError(f"The lake is not the one that Dagster's history is of: {'; '.join(problems)}. {REMEDY}")


def find_lost_hours(instance: dg.DagsterInstance, lake: Lake, naming: Naming = PLAIN) -> list[datetime]:
    """Return the hours of which `change_feed` holds fewer entries than their last run stored, in order.

    Entries never leave `change_feed`, so they were lost. The function counts every hour: it is meant for a nightly
    audit.
    """
    counts = HourLog(instance, [naming.key(CHANGE_FEED)]).row_counts()
    feed = lake.open(CHANGE_FEED)
    if feed is None or not counts:
        return sorted(hour for hour, count in counts.items() if count)
    stored = count_stored(feed, Window(min(counts), max(counts) + HOUR))
    return sorted(hour for hour, count in counts.items() if count > (stored[hour].entries if hour in stored else 0))


def _find_problem(instance: dg.DagsterInstance, lake: Lake, table: Table, naming: Naming) -> str | None:
    recorded = _find_recorded(instance, naming.key(table))
    if recorded is None:
        return None
    snapshot = lake.open(table)
    if snapshot is None:
        return f"{table.name} is not at {lake.uri(table)}"
    version, table_id = recorded
    if table_id and table_id != snapshot.table_id:
        return f"{table.name} at {lake.uri(table)} is another table of that name"
    if version is not None and version > snapshot.version:
        return f"{table.name} is at version {snapshot.version}, and was at {version} when it was last written"
    return None


def _find_recorded(instance: dg.DagsterInstance, asset: dg.AssetKey) -> tuple[int | None, str | None] | None:
    """Return the table's version and id as last recorded for an asset; None where it was never materialised."""
    records: list[dg.EventLogRecord] = []
    for limit in (1, _LOOKED_THROUGH):  # the newest materialization nearly always has a version
        records = list(instance.fetch_materializations(asset, limit=limit).records)
        for record in records:
            metadata = record.asset_materialization.metadata if record.asset_materialization else {}
            version, table_id = (metadata.get(name) for name in (TABLE_VERSION, TABLE_ID))
            if isinstance(version, dg.IntMetadataValue):
                return version.value, table_id.value if isinstance(table_id, dg.TextMetadataValue) else None
    return (None, None) if records else None
