"""The change feed of a window, hour by hour, as rows for the lake."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import pyarrow as pa

from dicom_assets.adapters.delta import Given
from dicom_assets.adapters.memory import MemoryLimit
from dicom_assets.core.change_feed import Entry, Window, build_change_feed
from dicom_assets.core.dicom_json import build_attributes, split_metadata
from dicom_assets.core.errors import FeedEntryError, ServiceError
from dicom_assets.core.schema import CHANGE_FEED, Table

BATCH_TIME = timedelta(minutes=1)
"""Time of reading, about, after which rows are given out however few they are: a run that is stopped loses no more."""

SPLIT_ROWS = 2_000
"""Entries, about, whose metadata is decoded at a time, beside the reading of pages."""


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

    def with_page(self, entries: list[Entry]) -> "HourRead":
        """The same with one page more."""
        actions = Counter(entry.action for entry in entries)
        states = Counter(entry.state for entry in entries)
        return HourRead(self.hour, self.actions + actions, self.states + states, self.pages + 1)


@dataclass(frozen=True)
class Extraction:
    """The entries of a window, read as they are iterated: batches of whole hours, or of parts of one; at least one."""

    feed: Feed
    window: Window
    now: Callable[[], datetime]
    """The time, with a zone."""
    report: Callable[[HourRead], None]
    """Told of every hour that was read."""
    instance: Table | None = None
    """`instance`, where its attributes are wanted next: they are decoded while pages arrive."""
    batch_bytes: int = MemoryLimit().batch_bytes
    """Size of the rows that are held before they are given out. They are given out by whole hours; an hour larger than
    this comes in parts, so that memory does not grow with it."""
    advance: Callable[[HourRead, datetime], None] | None = None
    """Told of every page: what was read of its hour so far, and the time that was reached."""

    def __iter__(self) -> Iterator[Given]:
        """Rows of `change_feed`, each sequence once, in the order of the hours.

        Raises:
            FeedEntryError: an entry has no place in the tables.
            ServiceError: the service refused, was not reached, or answered with something else than pages.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="metadata") as splitter:
            yield from self._read(partial(_Held, self.instance, splitter))

    def _read(self, hold: Callable[[], "_Held"]) -> Iterator[Given]:
        held = hold()
        for hour in self.window.hours():
            if held.since and self.now() - held.since >= BATCH_TIME:
                yield held.take()
            read_at = self.now()
            read = HourRead(hour, Counter(), Counter(), 0)
            of_hour = hold()
            try:
                for entries in self.feed.fetch_pages(hour):
                    of_hour.add(build_change_feed(entries, read_at))
                    read = read.with_page(entries)
                    if self.advance is not None:
                        self.advance(read, of_hour.reached)
                    if of_hour.size_bytes >= self.batch_bytes:
                        if held.size_bytes:
                            yield held.take()
                        yield of_hour.take()
            except (ServiceError, FeedEntryError):
                if held.since:
                    yield held.take()  # the hours before are whole, and need not be read again
                raise
            held.add_all(of_hour, read_at)
            self.report(read)
            if held.size_bytes >= self.batch_bytes:
                yield held.take()
        yield held.take()


class _Held:
    """Rows that wait to be written."""

    def __init__(self, instance: Table | None, splitter: ThreadPoolExecutor) -> None:
        self._instance = instance
        self._splitter = splitter
        self._clear()

    def _clear(self) -> None:
        self._rows: list[pa.Table] = []
        self._whole: list[pa.Table] = []
        self._elements: list[Future[pa.Table]] = []
        self.size_bytes = 0
        self.since: datetime | None = None
        """Time at which the first whole hour among them was read."""

    def add(self, rows: pa.Table) -> None:
        self._rows.append(rows)
        self.size_bytes += rows.nbytes
        self._whole.append(rows)
        self._split(at_least=SPLIT_ROWS)

    @property
    def reached(self) -> datetime:
        """The time of the last row."""
        time: datetime = self._rows[-1]["timestamp"][-1].as_py()
        return time

    def add_all(self, others: "_Held", read_at: datetime) -> None:
        if others._elements:  # in the order of the rows
            self._split()
        self._rows += others._rows
        self._whole += others._whole
        self._elements += others._elements
        self.size_bytes += others.size_bytes
        self.since = self.since or read_at
        self._split(at_least=SPLIT_ROWS)

    def take(self) -> Given:
        self._split()
        rows = pa.concat_tables([CHANGE_FEED.schema.empty_table(), *self._rows])
        attributes = None
        if self._instance is not None and self._elements:
            elements = pa.concat_tables(part.result() for part in self._elements)
            attributes = build_attributes(elements, self._instance.attributes)
        self._clear()
        return Given(rows, CHANGE_FEED, attributes)

    def _split(self, at_least: int = 1) -> None:
        """Has the elements found in metadata that is whole yet, while more is read; where it is of so many entries."""
        if sum(map(len, self._whole)) < at_least:
            return
        if self._instance is not None:
            metadata = pa.chunked_array([chunk for rows in self._whole for chunk in rows["metadata"].chunks])
            self._elements.append(self._splitter.submit(split_metadata, metadata, self._instance.attributes))
        self._whole = []
