"""Extraction: the change feed of a window, read hour by hour, as rows of `change_feed`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

import pyarrow as pa

from dicom_assets.core.columns.dicom_json import build_attributes
from dicom_assets.core.columns.schema import CHANGE_FEED, Table
from dicom_assets.core.errors import FeedEntryError, ServiceError
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.core.tables.change_feed import Entry, Window, build_change_feed
from dicom_assets.core.tables.instance import find_unreadable_entries
from dicom_assets.core.tables.merge import Desired
from dicom_assets.derive.derivation import Fixed
from dicom_assets.derive.elements import split_metadata
from dicom_assets.lake.files.parquet import EncodedRows, Spool
from dicom_assets.lake.table.writing import FixedRows

BATCH_TIME = timedelta(minutes=1)
"""Approximate time of reading after which a batch is yielded, however small. A run that is stopped loses no more."""
ENCODED_ROWS = 2_000
"""Approximate number of entries that are encoded at a time."""
ENCODED_BYTES = 16 * 2**20
"""Approximate size of entries that are encoded at a time, however few they are."""


NAMED = 20
"""Greatest number of entries without usable metadata that are named for an hour."""

Named: TypeAlias = tuple[int, datetime]
"""Sequence and time of an entry."""


class Feed(Protocol):
    """A service whose change feed can be read."""

    def fetch_pages(self, window: Window) -> Iterable[list[Entry]]:
        """Return the window's entries, page by page, each sequence once."""
        ...


@dataclass(frozen=True)
class HourRead:
    """Summary of the entries that were read of one hour."""

    hour: Window
    actions: Counter[str] = field(default_factory=Counter)
    """Number of entries by action."""
    states: Counter[str] = field(default_factory=Counter)
    """Number of entries by state."""
    pages: int = 0
    unreadable: int = 0
    """Number of entries of live instances without usable metadata."""
    named: tuple[Named, ...] = ()
    """Sequence and time of some entries without usable metadata, at most `NAMED`."""
    reached: datetime | None = None
    """Time of the last entry; None before the first page."""
    is_complete: bool = False
    """True if the whole hour was read."""

    @property
    def entries(self) -> int:
        """Number of entries of the hour."""
        return self.actions.total()

    def with_page(self, entries: list[Entry], rows: pa.Table) -> "HourRead":
        """Return a summary that includes one more page.

        Args:
            entries: the page's entries.
            rows: rows of `change_feed`, one for each entry.
        """
        actions = Counter(entry.action for entry in entries)
        states = Counter(entry.state for entry in entries)
        found = find_unreadable_entries(rows)
        first = found.slice(0, NAMED - len(self.named))
        named = zip(first["sequence"].to_pylist(), first["timestamp"].to_pylist(), strict=True)
        reached = rows["timestamp"][-1].as_py() if len(rows) else self.reached
        return HourRead(
            self.hour, self.actions + actions, self.states + states, self.pages + 1,
            self.unreadable + len(found), (*self.named, *named), reached,
        )  # fmt: skip


@dataclass(frozen=True)
class Extraction:
    """The entries of a window, as an iterable of batches that reads the feed.

    It yields at least one batch. A batch has whole hours, or a part of one large hour.
    """

    feed: Feed
    window: Window
    now: Callable[[], datetime]
    """Clock that returns the current time, with a zone."""
    instance: Table | None = None
    """The table `instance` if its attributes are needed next, else None. They are decoded while pages arrive."""
    batch_bytes: int = MemoryLimit().batch_bytes
    """Size of the rows that are held before they are yielded. A batch has whole hours; an hour that is larger than this
    size is yielded in parts, so that memory does not grow with the hour."""
    encoded_rows: int = ENCODED_ROWS
    """Approximate number of entries that are encoded at a time, while pages are read. Fewer entries are not encoded."""

    def __iter__(self) -> Iterator[Fixed]:
        """Yield rows of `change_feed` in batches, each sequence once, in the order of the hours; raise as `steps`."""
        return (step for step in self.steps() if isinstance(step, Fixed))

    def steps(self) -> Iterator[HourRead | Fixed]:
        """Yield the batches and, as they are read, a summary of the hour so far after every page and at its end.

        Raises:
            FeedEntryError: an entry cannot be stored in the tables.
            ServiceError: the service refused, was not reached, or answered with something other than pages.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="encoder") as encoder:
            yield from self._read(_Batch(self.instance, encoder, self.encoded_rows))

    def _read(self, batch: "_Batch") -> Iterator[HourRead | Fixed]:
        for hour in self.window.hours():
            if batch.since and self.now() - batch.since >= BATCH_TIME:
                yield batch.take()
            read_at = self.now()
            read = HourRead(hour)
            rows_before, bytes_before = batch.rows, batch.size_bytes
            try:
                for entries in self.feed.fetch_pages(hour):
                    page = build_change_feed(entries, read_at)
                    batch.add(page)
                    read = read.with_page(entries, page)
                    yield read
                    if batch.size_bytes - bytes_before >= self.batch_bytes:
                        yield batch.take()
                        rows_before = bytes_before = 0
            except (ServiceError, FeedEntryError):
                if batch.since:
                    yield batch.take(rows_before)  # the earlier hours are complete, and need not be read again
                raise
            batch.since = batch.since or read_at
            yield replace(read, is_complete=True)
            if batch.size_bytes >= self.batch_bytes:
                yield batch.take()
        yield batch.take()


class _Batch:
    """Entries that wait to be written: the last pages as received, earlier pages encoded.

    Of encoded pages only the keys are kept as rows.
    """

    def __init__(self, instance: Table | None, encoder: ThreadPoolExecutor, encoded_rows: int) -> None:
        self._instance = instance
        self._encoder = encoder
        self._encoded_rows = encoded_rows
        self._clear()

    def _clear(self) -> None:
        self._pages: list[pa.Table] = []
        self._page_rows = self._page_bytes = 0
        self._keys: list[pa.Table] = []
        self._elements: list[Future[pa.Table | None]] = []
        self._spool = Spool(CHANGE_FEED.schema)
        self.rows = 0
        self.size_bytes = 0
        """Size of the entries before encoding."""
        self.since: datetime | None = None
        """Time at which the first whole hour among the entries was read; None if there is no whole hour."""

    def add(self, page: pa.Table) -> None:
        self._pages.append(page)
        self._page_rows += len(page)
        self._page_bytes += page.nbytes
        self.rows += len(page)
        self.size_bytes += page.nbytes
        if self._page_rows >= self._encoded_rows or self._page_bytes >= ENCODED_BYTES:
            self._encode()

    def take(self, rows: int | None = None) -> Fixed:
        """Return the first `rows` rows, by default all rows, and discard the rest."""
        desired: Desired | EncodedRows
        if self._keys:
            self._encode()
            attributes = self._build_attributes([part.result() for part in self._elements])
            encoded = EncodedRows(pa.concat_tables(self._keys), self._spool.take(), attributes)
            desired = encoded
            if rows is not None and rows < self.rows:
                some = None if attributes is None else attributes[:rows]
                desired = FixedRows(encoded.decode().rows[:rows], CHANGE_FEED, some).build()
        else:
            whole = pa.concat_tables([CHANGE_FEED.schema.empty_table(), *self._pages])[:rows]
            desired = FixedRows(whole, CHANGE_FEED, self._build_attributes([_split(whole, self._instance)])).build()
        self._clear()
        return Fixed(desired)

    def _build_attributes(self, elements: Sequence[pa.Table | None]) -> pa.Table | None:
        found = [part for part in elements if part is not None]
        if self._instance is None or not found:
            return None
        return build_attributes(pa.concat_tables(found), self._instance.attributes)

    def _encode(self) -> None:
        """Start to encode the pages in the encoder's thread, while further pages are read."""
        if self._page_rows:
            rows = pa.concat_tables(self._pages)
            self._keys.append(rows.select(CHANGE_FEED.merge_columns))
            self._elements.append(self._encoder.submit(_encode, rows, self._spool, self._instance))
        self._pages = []
        self._page_rows = self._page_bytes = 0


def _encode(rows: pa.Table, spool: Spool, instance: Table | None) -> pa.Table | None:
    spool.add(rows)
    return _split(rows, instance)


def _split(rows: pa.Table, instance: Table | None) -> pa.Table | None:
    """Return the elements that `instance` is built from; None if `instance` is None."""
    return None if instance is None else split_metadata(rows["metadata"], instance.attributes)
