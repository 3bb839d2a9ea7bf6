"""Healing: request the metadata of instances again that are stored without usable metadata.

The service may have lost a metadata file, or may send metadata that is not JSON. Then the entry is stored without
usable metadata, and `instance` marks the row. If the service gives the metadata later, it is stored as if the hour had
been read again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow.compute as pc

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, METADATA_UNREADABLE
from dicom_assets.core.tables.change_feed import HOUR, Entry, Window, build_change_feed, has_metadata
from dicom_assets.derive.extract import Named
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.derive.repair import Repair
from dicom_assets.lake.table.writing import FixedRows

ASKED_AT_ONCE = 200
"""Number of entries whose metadata is held in memory at a time."""
ASKED = 2_000
"""Greatest number of entries that one call of `heal` requests: the newest entries."""

_GONE = ("deleted", "delete")


class EntrySource(Protocol):
    """A service from which single entries can be requested."""

    def fetch_entries(self, entries: Sequence[Named]) -> list[Entry]:
        """Return entries in their current state at the service."""
        ...


@dataclass(frozen=True)
class Healed:
    """Result of a call of `heal`."""

    healed: int = 0
    """Number of entries that have metadata now, or whose instance was deleted."""
    unreadable: tuple[int, ...] = ()
    """Sequences of the entries that are still without usable metadata, newest first."""


def has_news(entry: Entry) -> bool:
    """Return whether an entry has metadata, or shows that its instance was deleted."""
    return has_metadata(entry) or entry.state.strip().lower() in _GONE


def find_unreadable(repair: Repair) -> list[Named]:
    """Return sequence and time of the entries that left an instance without usable metadata, newest first."""
    snapshot = repair.lake.open(INSTANCE)
    if snapshot is None or METADATA_UNREADABLE.name not in snapshot.schema.names:
        return []
    names = [METADATA_UNREADABLE.name, "sequence", "lastModifiedTimestamp"]
    rows = snapshot.read_table(names, where=lambda rows: pc.fill_null(rows[METADATA_UNREADABLE.name], False))
    return sorted(zip(rows["sequence"].to_pylist(), rows["lastModifiedTimestamp"].to_pylist(), strict=True))[::-1]


def heal(
    repair: Repair, open_service: Callable[[], AbstractContextManager[EntrySource]], now: Callable[[], datetime]
) -> Healed:
    """Request the metadata of instances without usable metadata again, and update all tables.

    Args:
        repair: repair of the lake.
        open_service: opens the service's client; not called if there is nothing to request.
        now: returns the current time, with a zone.

    Raises:
        ServiceError: the service cannot be reached, or refuses.
        LakeError: as `Lake.write`.
    """
    wanted = find_unreadable(repair)
    healed: set[int] = set()
    if wanted:
        with open_service() as service:
            for start in range(0, min(len(wanted), ASKED), ASKED_AT_ONCE):
                part = wanted[start : min(start + ASKED_AT_ONCE, ASKED)]
                fresh = [entry for entry in service.fetch_entries(part) if has_news(entry)]
                _store(repair, fresh, now())
                healed |= {entry.sequence for entry in fresh}
    return Healed(len(healed), tuple(sequence for sequence, _ in wanted if sequence not in healed))


def _store(repair: Repair, entries: Sequence[Entry], read_at: datetime) -> None:
    """Store the entries that were read again, and derive the rows of their instances, series and studies."""
    if not entries:
        return
    rows = build_change_feed(entries, read_at)
    repair.lake.write(CHANGE_FEED, FixedRows(rows, CHANGE_FEED))
    hours = pc.min_max(rows["windowStart"])
    window = Window(hours["min"].as_py(), hours["max"].as_py() + HOUR)
    repair.derive(FeedWindow(repair.lake, window, pc.unique(rows["studyInstanceUid"])))
