"""Instances whose metadata could not be had, asked for again.

The service may have lost a metadata file, or give what is no JSON. The entry is stored without it then, and `instance`
marks the row. Whatever the service gives later is stored as if the hour had been read again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow.compute as pc

from dicom_assets.adapters.delta import Given
from dicom_assets.adapters.derive import HoursOf
from dicom_assets.adapters.extract import Named
from dicom_assets.adapters.repair import Repair
from dicom_assets.core.change_feed import HOUR, Entry, Window, build_change_feed, has_metadata
from dicom_assets.core.schema import CHANGE_FEED, INSTANCE, METADATA_UNREADABLE

ASKED_AT_ONCE = 200
"""Entries whose metadata is held at a time."""
ASKED = 2_000
"""Entries that are asked for at a time of healing, at most: the newest."""

_GONE = ("deleted", "delete")


class Feed(Protocol):
    """A service whose entries can be asked for one by one."""

    def fetch_entries(self, entries: Sequence[Named]) -> list[Entry]:
        """Return entries as the service gives them now."""
        ...


@dataclass(frozen=True)
class Healed:
    """What asking again gave."""

    healed: int = 0
    """Entries that have metadata now, or are of instances that were deleted."""
    unreadable: tuple[int, ...] = ()
    """Sequences of entries that still have none, newest first."""


def has_news(entry: Entry) -> bool:
    """Return whether an entry says more than that its instance is there."""
    return has_metadata(entry) or entry.state.strip().lower() in _GONE


def find_unreadable(repair: Repair) -> list[Named]:
    """Return the entries that left an instance without metadata, newest first."""
    snapshot = repair.lake.open(INSTANCE)
    if snapshot is None or METADATA_UNREADABLE.name not in snapshot.schema.names:
        return []
    names = [METADATA_UNREADABLE.name, "sequence", "lastModifiedTimestamp"]
    rows = snapshot.read_table(names, where=lambda rows: pc.fill_null(rows[METADATA_UNREADABLE.name], False))
    return sorted(zip(rows["sequence"].to_pylist(), rows["lastModifiedTimestamp"].to_pylist(), strict=True))[::-1]


def heal(
    repair: Repair, open_service: Callable[[], AbstractContextManager[Feed]], now: Callable[[], datetime]
) -> Healed:
    """Ask again for the metadata of instances that have none, and bring what comes into all tables.

    Args:
        repair: of the lake.
        open_service: gives the service's client; not called where there is nothing to ask for.
        now: the time, with a zone.

    Raises:
        ServiceError: the service cannot be asked.
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
    """Store entries that were read again, and derive the rows of their instances, series and studies."""
    if not entries:
        return
    rows = build_change_feed(entries, read_at)
    repair.lake.write(CHANGE_FEED, Given(rows, CHANGE_FEED))
    span, studies = pc.min_max(rows["windowStart"]), pc.unique(rows["studyInstanceUid"])
    hours = HoursOf(repair.lake, Window(span["min"].as_py(), span["max"].as_py() + HOUR), studies)
    repair.derive(hours)
