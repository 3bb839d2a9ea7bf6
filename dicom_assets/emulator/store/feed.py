"""Pages of the change feed: their queries, and entries with the state, path and metadata of the time of reading.

Source: the public DICOM server's `GetChangeFeedByTime` procedure and its `ChangeFeedEntry`.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from dicom_assets.emulator.clock import Ticks, format_ticks
from dicom_assets.emulator.store.unreadable import Fault, UnreadableMetadataError, spoil

CREATE, DELETE, UPDATE = range(3)
_ACTIONS: Final = ("Create", "Delete", "Update")

# The page is cut before the joins, so that a deep offset reads only the index of `change`.
_ENTRIES = """
SELECT c.sequence, p.name, i.file_path, c.study, c.series, c.sop_instance, c.action, c.ticks, c.version, i.version,
       i.fault, CASE WHEN :include_metadata THEN i.metadata END
FROM ({page}) c JOIN instance i ON i.key = c.instance JOIN data_partition p ON p.key = i.partition
ORDER BY c.ticks, c.sequence
"""
PAGE: Final = _ENTRIES.format(
    page="""
    SELECT * FROM change WHERE ticks >= ifnull(:start, 0) AND ticks < ifnull(:end, 9223372036854775807)
    ORDER BY ticks, sequence LIMIT :limit OFFSET :offset
    """
)
"""Query of a page's rows; its parameters are the members of `PageRequest`."""
LATEST: Final = _ENTRIES.format(page="SELECT * FROM change ORDER BY ticks DESC, sequence DESC LIMIT 1")
"""Query of the newest entry's row, with parameter `include_metadata`."""


@dataclass(frozen=True)
class PageRequest:
    """A page of the feed: entries with start ≤ timestamp < end, by timestamp and sequence."""

    start: Ticks | None = None
    """Start of the window, inclusive; None means the beginning of the feed."""
    end: Ticks | None = None
    """End of the window, exclusive; None means the end of the feed."""
    offset: int = 0
    """Number of entries to skip."""
    limit: int = 100
    """Most entries of the page, at least 1."""
    include_metadata: bool = True
    """True if entries hold metadata."""

    def __post_init__(self) -> None:
        if self.offset < 0 or self.limit < 1:
            raise ValueError("an offset is at least 0, a limit at least 1")


Row = tuple[Any, ...]
"""Row of `PAGE` or `LATEST`; its last column is the metadata as JSON text."""


def to_entry(row: Row, *, omit_unreadable: bool = False) -> dict[str, Any]:
    """Return an entry as a JSON object; members without a value are left out.

    Args:
        row: The entry's row.
        omit_unreadable: Whether to leave out metadata with a fault instead of raising an error.

    Raises:
        UnreadableMetadataError: The metadata has a fault.
    """
    entry = _without_metadata(row)
    *_, fault, metadata = row
    if metadata is not None and fault is None:
        entry["metadata"] = json.loads(metadata)
    elif metadata is not None and not omit_unreadable:
        raise UnreadableMetadataError(Fault(fault))
    return entry


def to_json(row: Row) -> bytes:
    """Return an entry as JSON text; the metadata is copied without being parsed.

    Raises:
        UnreadableMetadataError: The metadata has a fault for which the service sends no page.
    """
    content = json.dumps(_without_metadata(row), separators=(",", ":")).encode()
    *_, fault, metadata = row
    if metadata is None:
        return content
    text = metadata.encode() if fault is None else spoil(metadata, Fault(fault))
    return b'%s,"metadata":%s}' % (content[:-1], text)


def _without_metadata(row: Row) -> dict[str, Any]:
    sequence, partition, path, study, series, sop_instance, action, ticks, version, version_now, _, _ = row
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
