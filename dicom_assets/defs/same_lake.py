"""Whether the lake is still the one that Dagster's history is of: its tables, as new as they were, with their rows.

Dagster takes an hour that was materialised for done. In a lake that was deleted, restored from a backup or mistaken for
another, such hours would stay missing for ever, while the newest ones arrive as if nothing had happened.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from dicom_assets.adapters.coverage import count_stored
from dicom_assets.adapters.delta import Lake
from dicom_assets.core.change_feed import HOUR, Window
from dicom_assets.core.errors import LakeLostError
from dicom_assets.core.schema import CHANGE_FEED, Table
from dicom_assets.defs.hour_log import HourLog
from dicom_assets.defs.naming import PLAIN, Naming

TABLE_VERSION = "table_version"
TABLE_ID = "table_id"
"""Metadata by which a materialisation says which table it wrote, and up to which version."""

_LOOKED_THROUGH = 1000
"""Materialisations, at most: of a range only the last hour's has them, and those before may be of runs that failed."""

REMEDY = (
    "Hours that Dagster takes for done would stay missing, so nothing is read. Look at DICOM_STORAGE_URL, "
    "DICOM_CONTAINER_NAME and the tables' paths, or bring the tables back. If they are gone for good, run "
    "`dicom-assets adopt --forget`: Dagster then knows what the lake holds, and the other hours are read anew."
)


@dataclass(frozen=True)
class _Recorded:
    """The table as the last run that told of it left it."""

    version: int | None
    table_id: str | None


def require_same_lake(
    instance: dg.DagsterInstance, lake: Lake, tables: Iterable[Table], naming: Naming = PLAIN
) -> None:
    """Makes sure that each table is the one that Dagster's history is of, and not older.

    Raises:
        LakeLostError: one is not; names all of them.
        LakeUnavailableError: storage refuses.
    """
    problems = [problem for table in tables if (problem := _find_problem(instance, lake, table, naming))]
    if problems:
        raise LakeLostError(f"The lake is not the one that Dagster's history is of: {'; '.join(problems)}. {REMEDY}")


def find_lost_hours(instance: dg.DagsterInstance, lake: Lake, naming: Naming = PLAIN) -> list[datetime]:
    """Hours of which `change_feed` holds fewer entries than were stored when they were read last: they never leave it.

    It looks at every hour, so it is for a nightly audit.
    """
    counts = HourLog(instance, []).row_counts(naming.key(CHANGE_FEED))
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
    if recorded.table_id and recorded.table_id != snapshot.table_id:
        return f"{table.name} at {lake.uri(table)} is another table of that name"
    if recorded.version is not None and recorded.version > snapshot.version:
        return f"{table.name} is at version {snapshot.version}, and was at {recorded.version} when it was last written"
    return None


def _find_recorded(instance: dg.DagsterInstance, asset: dg.AssetKey) -> _Recorded | None:
    """None where the asset was never materialised."""
    records: list[dg.EventLogRecord] = []
    for limit in (1, _LOOKED_THROUGH):  # the last one says it nearly always
        records = list(instance.fetch_materializations(asset, limit=limit).records)
        for record in records:
            metadata = record.asset_materialization.metadata if record.asset_materialization else {}
            version, table_id = (metadata.get(name) for name in (TABLE_VERSION, TABLE_ID))
            if isinstance(version, dg.IntMetadataValue):
                return _Recorded(version.value, table_id.value if isinstance(table_id, dg.TextMetadataValue) else None)
    return _Recorded(None, None) if records else None
