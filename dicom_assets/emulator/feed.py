"""The change feed as it is read: which entries a page holds, and an entry out of what is current at that moment.

Source: the public DICOM server's `GetChangeFeedByTime` procedure and its `ChangeFeedEntry`.
"""

import json
from typing import Any, Final

from dicom_assets.emulator.clock import format_ticks

CREATE, DELETE, UPDATE = range(3)
_ACTIONS: Final = ("Create", "Delete", "Update")

# The page is cut before anything is looked up: a deep offset walks the index of `change` alone.
_ENTRIES = """
SELECT c.sequence, p.name, i.file_path, c.study, c.series, c.sop_instance, c.action, c.ticks, c.version, i.version,
       CASE WHEN :include_metadata THEN i.metadata END
FROM ({page}) c JOIN instance i ON i.key = c.instance JOIN data_partition p ON p.key = i.partition
ORDER BY c.ticks, c.sequence
"""
PAGE: Final = _ENTRIES.format(
    page="""
    SELECT * FROM change WHERE ticks >= :start AND ticks < :end
    ORDER BY ticks, sequence LIMIT :limit OFFSET :offset
    """
)
"""The rows of a page, with parameters `start`, `end` (ticks), `offset`, `limit` and `include_metadata`."""
LATEST: Final = _ENTRIES.format(page="SELECT * FROM change ORDER BY ticks DESC, sequence DESC LIMIT 1")
"""The row of the newest entry, with parameter `include_metadata`."""

Row = tuple[Any, ...]
"""A row of `PAGE` or `LATEST`; its last column is the metadata's text."""


def to_entry(row: Row) -> dict[str, Any]:
    """An entry, ready for JSON; members without a value are left out."""
    entry = _without_metadata(row)
    if row[-1] is not None:
        entry["metadata"] = json.loads(row[-1])
    return entry


def to_text(row: Row) -> str:
    """An entry as JSON text; the metadata is passed on without being parsed."""
    text = json.dumps(_without_metadata(row), separators=(",", ":"))
    return text if row[-1] is None else f'{text[:-1]},"metadata":{row[-1]}}}'


def _without_metadata(row: Row) -> dict[str, Any]:
    sequence, partition, path, study, series, sop_instance, action, ticks, version, version_now, _ = row
    entry = {
        "sequence": sequence,
        "partitionName": partition,
        "filePath": path,
        "studyInstanceUid": study,
        "seriesInstanceUid": series,
        "sopInstanceUid": sop_instance,
        "action": _ACTIONS[action],
        "timestamp": format_ticks(ticks),
        "state": "Deleted" if version_now is None else "Current" if version_now == version else "Replaced",
    }
    if path is None:
        del entry["filePath"]
    return entry
