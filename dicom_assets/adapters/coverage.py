"""Which hours of the feed the lake holds, as the service itself counts them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.adapters.derive import is_within
from dicom_assets.adapters.snapshot import Snapshot
from dicom_assets.core.change_feed import Entry, Window, parse_timestamps
from dicom_assets.core.errors import OtherServiceError

PART = timedelta(days=1)
"""What is counted at once; only where a day's count differs are its hours counted one by one."""


class CountedFeed(Protocol):
    """A service whose change feed can be counted."""

    def fetch_end(self, entries: int, window: Window) -> list[Entry]:
        """The last entry of a window that has that many; two or none where it has more or fewer."""
        ...


@dataclass(frozen=True)
class Stored:
    """What `change_feed` holds of an hour."""

    entries: int
    last: datetime
    """Time of its last entry."""


def count_stored(feed: Snapshot, window: Window) -> dict[datetime, Stored]:
    """What the table holds of each of the window's hours, by their start; hours without a row are left out.

    Each file is read once, two columns of it.
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
    """Those of the window's hours of which the lake holds as many entries as the service; empty ones among them.

    Entries never leave an hour, so none is missing in these. One small request for a day, and one for each hour of a
    day that the service has more of.

    Raises:
        OtherServiceError: the service has fewer entries of an hour than the lake, or others.
        ServiceError: it cannot be asked.
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
    """The starts of the hours in which something of these studies changed."""
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
    # As many entries, but are they the same? Times of two services never agree to the microsecond.
    if end and parse_timestamps(end)[0].as_py() != max(hour.last for hour in hours):
        raise _unknown(window, "its last entry is not that of the lake")
    return True


def _unknown(window: Window, what: str) -> OtherServiceError:
    return OtherServiceError(
        f"The service does not know what the lake holds (window {window}): {what}. Entries never leave a change feed, "
        "so DICOM_SERVICE_URL or DICOM_STORAGE_URL is that of another deployment, the service was restored from a "
        "backup, or change_feed has rows twice (the job audit_lake tells). Nothing was told to Dagster."
    )
