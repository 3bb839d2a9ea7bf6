"""The change feed of a window, hour by hour, as rows for the lake."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from dicom_assets.core.change_feed import Entry, Window, build_change_feed
from dicom_assets.core.schema import CHANGE_FEED

BATCH_BYTES = 128 * 2**20
"""Size of the rows that are held before they are written: whole hours, so an hour larger than this is held whole."""


class Feed(Protocol):
    """A service whose change feed can be read."""

    def fetch_pages(self, window: Window) -> Iterable[list[Entry]]:
        """The window's entries, page by page, each sequence once."""
        ...


@dataclass(frozen=True)
class HourRead:
    """What an hour of the feed held."""

    hour: Window
    actions: Counter[str]
    """Entries by action."""
    states: Counter[str]
    """Entries by state."""
    pages: int

    @property
    def entries(self) -> int:
        """Entries of the hour."""
        return self.actions.total()


@dataclass(frozen=True)
class Extraction:
    """The entries of a window, read as they are iterated: batches of whole hours, at least one."""

    feed: Feed
    window: Window
    now: Callable[[], datetime]
    """The time, with a zone."""
    report: Callable[[HourRead], None]
    """Told of every hour that was read."""

    def __iter__(self) -> Iterator[pa.Table]:
        """Rows of `change_feed`, each sequence once, in the order of the hours.

        Raises:
            FeedEntryError: an entry has no place in the tables.
            ServiceError: the service refused, was not reached, or answered with something else than pages.
        """
        held = [CHANGE_FEED.schema.empty_table()]
        held_bytes = 0
        for hour in self.window.hours():
            read_at = self.now()
            actions: Counter[str] = Counter()
            states: Counter[str] = Counter()
            pages = 0
            for pages, entries in enumerate(self.feed.fetch_pages(hour), start=1):  # noqa: B007
                rows = build_change_feed(entries, read_at)
                held.append(rows)
                held_bytes += rows.nbytes
                actions.update(entry.action for entry in entries)
                states.update(entry.state for entry in entries)
            self.report(HourRead(hour, actions, states, pages))
            if held_bytes >= BATCH_BYTES:
                yield pa.concat_tables(held)
                held, held_bytes = [CHANGE_FEED.schema.empty_table()], 0
        yield pa.concat_tables(held)
