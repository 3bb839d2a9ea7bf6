"""Hours of the feed that the lake holds completely, by the service's own count of entries."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.errors import OtherServiceError
from dicom_assets.core.tables.change_feed import Entry, Window, parse_timestamps
from dicom_assets.derive.derivation import is_within
from dicom_assets.lake.table.snapshot import Snapshot

PART = timedelta(days=1)
"""Time range that is counted at once; only if a day's count differs, its hours are counted one by one."""


class CountedFeed(Protocol):
    """A service whose change feed can be counted."""

    def fetch_end(self, entries: int, window: Window) -> list[Entry]:
        """Return the last entry of a window that has `entries` entries; two entries if it has more, none if fewer."""
        ...


@dataclass(frozen=True)
class Stored:
    """Entries of an hour in `change_feed`."""

    entries: int
    """Number of entries."""
    last: datetime
    """Time of the last entry."""


def count_stored(feed: Snapshot, window: Window) -> dict[datetime, Stored]:
    """Return the stored entries of each hour of the window, by the hour's start; hours without rows are left out.

    Two columns of each file are read, once.
    """
    stored: dict[datetime, Stored] = {}
    files = feed.files_of_hours(window.start, window.end)
    inside = partial(_is_inside, window=window)
    for _, rows in feed.read(("windowStart", "timestamp"), files=files, where=inside):
        groups = rows.group_by("windowStart").aggregate([([], "count_all"), ("timestamp", "max")])
        for group in groups.to_pylist():
            before = stored.get(group["windowStart"], Stored(0, group["timestamp_max"]))
            stored[group["windowStart"]] = Stored(
                before.entries + group["count_all"], max(before.last, group["timestamp_max"])
            )
    return stored


def find_complete(service: CountedFeed, stored: Mapping[datetime, Stored], window: Window) -> Iterator[Window]:
    """Yield the hours of the window for which the lake has as many entries as the service, including empty hours.

    Entries never leave an hour, so none is missing in these hours. This costs one small request per day, and one per
    hour of each day for which the service has more entries.

    Raises:
        OtherServiceError: the service has fewer entries of an hour than the lake, or other entries.
        ServiceError: the service cannot be reached, or refuses.
    """
    start = window.start
    while start < window.end:
        day = Window(start, min(start + PART, window.end))
        hours = list(day.hours())
        yield from (
            hours if _holds_all(service, stored, day) else (hour for hour in hours if _holds_all(service, stored, hour))
        )
        start = day.end


def find_hours(feed: Snapshot, studies: pa.Array) -> set[datetime]:
    """Return the starts of the hours in which the studies changed."""
    if not len(studies):
        return set()
    columns = ("studyInstanceUid", "windowStart")
    found: set[datetime] = set()
    for _, rows in feed.read(columns, files=feed.files_of_studies(studies)):
        concerned = rows.filter(pc.is_in(rows["studyInstanceUid"], value_set=studies))
        found |= set(pc.unique(concerned["windowStart"]).to_pylist())
    return found


def _is_inside(rows: pa.Table, window: Window) -> pa.ChunkedArray:
    return is_within(rows["windowStart"], window)


def _holds_all(service: CountedFeed, stored: Mapping[datetime, Stored], window: Window) -> bool:
    hours = [stored[hour.start] for hour in window.hours() if hour.start in stored]
    entries = sum(hour.entries for hour in hours)
    end = service.fetch_end(entries, window)
    if len(end) != min(entries, 1):
        if end:
            return False
        raise _unknown(window, f"it has fewer than the {entries:,} entries that the lake holds")
    # The counts agree, so the last entries are compared: times of two services never agree to the microsecond.
    if end and parse_timestamps(end)[0].as_py() != max(hour.last for hour in hours):
        raise _unknown(window, "its last entry is not that of the lake")
    return True


def _unknown(window: Window, what: str) -> OtherServiceError:
    return OtherServiceError(
        f"The service does not know what the lake holds (window {window}): {what}. Entries never leave a change feed, "
        "so DICOM_SERVICE_URL or DICOM_STORAGE_URL is that of another deployment, the service was restored from a "
        "backup, or change_feed has rows twice (the job audit_lake tells). Nothing was told to Dagster."
    )
