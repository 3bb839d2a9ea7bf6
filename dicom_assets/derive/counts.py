"""Entries of `change_feed`, counted: against the service's entries, and against the entries that were once read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.errors import OtherServiceError, ServiceError
from dicom_assets.core.tables.change_feed import Amount, CountedWindow, Entry, Window, parse_timestamps
from dicom_assets.derive.feed_window import count_values, is_within, read_window
from dicom_assets.lake.table.snapshot import Snapshot

COUNTED_AT_ONCE = timedelta(days=1)
"""Length of the windows that are counted one by one: to count a window, the service goes through all its entries."""


class CountedFeed(Protocol):
    """Service whose change feed can be counted."""

    def compare_count(self, entries: int, window: Window) -> CountedWindow:
        """Return how the window's number of entries compares with `entries`."""
        ...

    def fetch_pages(self, window: Window, *, include_metadata: bool) -> Iterable[list[Entry]]:
        """Yield the window's entries page by page, each sequence once."""
        ...


@dataclass(frozen=True)
class StoredCount:
    """Entries of an hour in `change_feed`."""

    entries: int
    """Number of entries."""
    last: datetime
    """Time of the last entry."""


def count_stored(feed: Snapshot, window: Window) -> dict[datetime, StoredCount]:
    """Return the stored entries of each hour of the window, by the hour's start; hours without rows are left out.

    Two columns of each file are read, once.
    """
    stored: dict[datetime, StoredCount] = {}
    files = feed.files_of_hours(window.start, window.end)
    inside = partial(_is_inside, window=window)
    for _, rows in feed.read(("windowStart", "timestamp"), files=files, where=inside):
        groups = rows.group_by("windowStart").aggregate([([], "count_all"), ("timestamp", "max")])
        for group in groups.to_pylist():
            hour, last = group["windowStart"], group["timestamp_max"]
            before = stored.get(hour, StoredCount(0, last))
            stored[hour] = StoredCount(before.entries + group["count_all"], max(before.last, last))
    return stored


def find_complete(service: CountedFeed, stored: Mapping[datetime, StoredCount], window: Window) -> Iterator[Window]:
    """Yield the hours of the window for which the lake has as many entries as the service, including empty hours.

    Entries never leave an hour, so none is missing in these hours. This costs one small request per day, and one per
    hour of each day for which the service has more entries.

    Raises:
        OtherServiceError: the service has fewer entries of an hour than the lake, or other entries.
        ServiceError: the service cannot be reached, or refuses.
    """
    for day in window.split(COUNTED_AT_ONCE):
        is_whole = _holds_all(service, stored, day)
        yield from (hour for hour in day.hours() if is_whole or _holds_all(service, stored, hour))


def find_hours(feed: Snapshot, studies: pa.Array) -> set[datetime]:
    """Return the starts of the hours in which the studies changed."""
    found: set[datetime] = set()
    if len(studies):
        for _, rows in feed.read(("studyInstanceUid", "windowStart"), files=feed.files_of_studies(studies)):
            concerned = rows.filter(pc.is_in(rows["studyInstanceUid"], value_set=studies))
            found.update(pc.unique(concerned["windowStart"]).to_pylist())
    return found


@dataclass(frozen=True)
class Recount:
    """Result of the audit of one window."""

    stored: int = 0
    """Number of entries in the table."""
    doubled: int = 0
    """Number of rows beyond the first of their entry."""
    lost: int = 0
    """Number of entries that were read and are absent from the table."""
    missing: tuple[int, ...] = ()
    """Sequences that the service has and the table lacks."""
    vanished: tuple[int, ...] = ()
    """Sequences that the table has and the service lacks, although entries never leave a feed."""
    error: str | None = None
    """Reason why the service could not be asked; None where it was."""


def recount(feed: CountedFeed, table: Snapshot, window: Window, read: Mapping[datetime, int]) -> Recount:
    """Count a window's entries again; where the counts differ, list the sequences.

    One small request a day of the window shows whether service and table have equally many entries. Only where they
    differ, the service's entries are listed, without metadata.

    Args:
        feed: the service.
        table: `change_feed`.
        window: whole hours.
        read: number of entries that were read, by the start of their hour.
    """
    found = Recount()
    for day in window.split(COUNTED_AT_ONCE):
        rows = read_window(table, day, ("sequence", "windowStart"))
        sequences, hours = pc.unique(rows["sequence"]), count_values(rows["windowStart"])
        found = replace(
            found,
            stored=found.stored + len(sequences),
            doubled=found.doubled + len(rows) - len(sequences),
            lost=found.lost + sum(max(0, read.get(hour.start, 0) - hours[hour.start]) for hour in day.hours()),
        )
        if found.error is None:
            try:
                found = _add_differences(found, feed, sequences, day)
            except ServiceError as error:
                found = replace(found, error=str(error))
    return found


def _add_differences(found: Recount, feed: CountedFeed, sequences: pa.Array, window: Window) -> Recount:
    """Return the result with the sequences that only one of service and table has, of this window too."""
    if feed.compare_count(len(sequences), window).amount is Amount.EQUAL:
        return found
    pages = feed.fetch_pages(window, include_metadata=False)
    served = pa.array([entry.sequence for page in pages for entry in page], pa.int64())
    missing = served.filter(pc.invert(pc.is_in(served, value_set=sequences)))
    vanished = sequences.filter(pc.invert(pc.is_in(sequences, value_set=served)))
    return replace(
        found,
        missing=(*found.missing, *missing.to_pylist()),
        vanished=(*found.vanished, *vanished.to_pylist()),
    )


def _is_inside(rows: pa.Table, window: Window) -> pa.ChunkedArray:
    return is_within(rows["windowStart"], window)


def _holds_all(service: CountedFeed, stored: Mapping[datetime, StoredCount], window: Window) -> bool:
    """Return whether the lake has as many entries of the window as the service, with the same last entry."""
    hours = [stored[hour.start] for hour in window.hours() if hour.start in stored]
    entries = sum(hour.entries for hour in hours)
    counted = service.compare_count(entries, window)
    if counted.amount is Amount.MORE:
        return False
    if counted.amount is Amount.FEWER:
        raise _build_error(window, f"it has fewer than the {entries:,} entries that the lake holds")
    # The counts agree, so the last entries are compared: times of two services never agree to the microsecond.
    if counted.last and parse_timestamps([counted.last])[0].as_py() != max(hour.last for hour in hours):
        raise _build_error(window, "its last entry is not that of the lake")
    return True


def _build_error(window: Window, what: str) -> OtherServiceError:
    return OtherServiceError(
        f"The service does not know what the lake holds (window {window}): {what}. Entries never leave a change feed, "
        "so DICOM_SERVICE_URL or DICOM_STORAGE_URL is that of another deployment, the service was restored from a "
        "backup, or change_feed has rows twice (the job audit_lake reports it). Nothing was reported to Dagster."
    )
