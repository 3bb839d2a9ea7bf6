"""Audit of a window's entries in `change_feed`: compared with the entries once read, and with the service's entries."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.errors import ServiceError
from dicom_assets.core.tables.change_feed import Entry, Window
from dicom_assets.derive.derivation import read_window
from dicom_assets.lake.table.snapshot import Snapshot

PART = timedelta(days=1)
"""Length of the windows that are counted one by one: to count a window, the service goes through all its entries."""


class CountedFeed(Protocol):
    """Service whose change feed can be counted."""

    def holds_exactly(self, entries: int, window: Window) -> bool:
        """Return whether the window has exactly this number of entries now."""
        ...

    def fetch_pages(self, window: Window, *, include_metadata: bool) -> Iterable[list[Entry]]:
        """Yield the window's entries page by page, each sequence once."""
        ...


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
    for part in _parts(window):
        rows = read_window(table, part, ("sequence", "windowStart"))
        sequences = pc.unique(rows["sequence"])
        hours = Counter({hour["values"]: hour["counts"] for hour in pc.value_counts(rows["windowStart"]).to_pylist()})
        found = replace(
            found,
            stored=found.stored + len(sequences),
            doubled=found.doubled + len(rows) - len(sequences),
            lost=found.lost + sum(max(0, read.get(hour.start, 0) - hours[hour.start]) for hour in part.hours()),
        )
        if found.error is None:
            try:
                found = _ask(feed, sequences, part, found)
            except ServiceError as error:
                found = replace(found, error=str(error))
    return found


def _ask(feed: CountedFeed, sequences: pa.Array, part: Window, found: Recount) -> Recount:
    if feed.holds_exactly(len(sequences), part):
        return found
    served = pa.array(
        [entry.sequence for page in feed.fetch_pages(part, include_metadata=False) for entry in page], pa.int64()
    )
    missing = served.filter(pc.invert(pc.is_in(served, value_set=sequences)))
    vanished = sequences.filter(pc.invert(pc.is_in(sequences, value_set=served)))
    return replace(
        found,
        missing=(*found.missing, *missing.to_pylist()),
        vanished=(*found.vanished, *vanished.to_pylist()),
    )


def _parts(window: Window) -> Iterator[Window]:
    start = window.start
    while start < window.end:
        yield Window(start, min(start + PART, window.end))
        start += PART
