"""A correction and a deletion in the last second of the demo's day, and what the tables hold before and after them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from rich.console import Console

from dicom_assets.core.tables.change_feed import DEFAULT_PARTITION
from dicom_assets.demo.embedded import Day
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets.query.sql.engine import ask

CORRECTED, DELETED = "corrected", "deleted"
_STUDIES = f"""
SELECT s.studyInstanceUid, s.patientName, s.patientId, count(*) AS files, min(f.filePath) AS firstFile
FROM study s JOIN file_index f ON f.partitionName = s.partitionName AND f.studyInstanceUid = s.studyInstanceUid
WHERE s.partitionName = '{DEFAULT_PARTITION}' AND s.studyInstanceUid LIKE '2.25.%'
    AND s.studyInstanceUid NOT IN (SELECT studyInstanceUid FROM change_feed WHERE windowStart < '{{since}}')
GROUP BY ALL ORDER BY files, s.studyInstanceUid
"""  # noqa: S608 - constants
"""Query of the made-up studies of which no entry is older than an hour, smallest first."""

_CORRECTION = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Corrected^Name"}]},
    "00100020": {"vr": "LO", "Value": ["P000000"]},
}

Studies = dict[str, Mapping[str, Any]]
"""Rows of studies as the tables hold them, by CORRECTED and DELETED."""


def change_studies(service: Service, lake: Lake, day: Day, since: datetime) -> Studies:
    """Correct one study of the tables and delete another, unless the service has done so before.

    Args:
        service: The service.
        lake: The tables, without the last hour of the day.
        day: Day of the demo.
        since: Hour in which the studies may have arrived at the earliest. To read it and all later hours again brings
            the tables to what a reading of the whole day would give: the feed shows old entries as they are now.

    Returns:
        Both studies as they are in the tables, which do not hold the changes yet; empty where nothing was changed.
    """
    at = day.end - timedelta(seconds=1)
    if service.change_feed(start=at, end=at + timedelta(microseconds=1), limit=1, include_metadata=False):
        return {}
    studies: Studies = dict(zip((CORRECTED, DELETED), _read_studies(lake, since), strict=False))
    if len(studies) < 2:  # noqa: PLR2004 - one of each kind
        return {}
    with service.transaction():
        service.update(studies[CORRECTED]["studyInstanceUid"], _CORRECTION, at=at)
        service.delete(studies[DELETED]["studyInstanceUid"], at=at)
    return studies


def show_studies(console: Console, lake: Lake, day: Day, before: Studies) -> None:
    """Print what the tables held of both studies, and what they hold now."""
    after = {row["studyInstanceUid"]: row for row in _read_studies(lake, day.start)}
    for what, row in before.items():
        uid = row["studyInstanceUid"]
        console.print(f"\nStudy {uid} was {what} in the service:", style="bold", highlight=False, soft_wrap=True)
        for when, held in (("before", row), ("after", after.get(uid))):
            console.print(f"  {when:7}{_describe(held)}", highlight=False, soft_wrap=True)


def _read_studies(lake: Lake, since: datetime) -> list[dict[str, Any]]:
    answer = ask(lake, _STUDIES.format(since=since.isoformat()))
    return [row for batch in answer for row in pa.record_batch(batch).to_pylist()]


def _describe(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "no row in any table, and no file"
    return ", ".join(f"{name} {value}" for name, value in row.items() if name != "studyInstanceUid")
