"""Client of a DICOM service's change feed: the pages of a window, complete even while entries arrive.

Source: API v2 and later of the DICOM service; `core/tables/change_feed.py` describes entries.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from logging import getLogger
from types import TracebackType
from typing import Self

import httpx

from dicom_assets.core.errors import FeedMovedError
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.core.tables.change_feed import Amount, CountedWindow, Entry, Window, has_metadata, parse_latest
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service.pages import FeedPages
from dicom_assets.service.pieces import Page, Piece, format_flag, read_time
from dicom_assets.service.requests import SMALL_BYTES, Query, ServiceRequests
from dicom_assets.service.statistics import Statistics

logger = getLogger(__name__)

MAXIMUM_BATCH_SIZE = 200
"""Greatest number of entries on one page of the service."""

DEFAULT_TIMEOUT = httpx.Timeout(60, connect=10, pool=None)
"""Timeout in seconds; without a limit for the wait for a free connection."""

AHEAD_BYTES = 64 * 2**20
"""Approximate size of the pages that are read ahead, if they are as large as the last page. One instance's metadata may
have megabytes, and a page may have 200 such instances."""

READINGS = 5
"""Number of readings of a window after which FeedMovedError is raised, if entries arrive during each reading."""

PAGES_PER_PART = 50
"""Pages after which the rest of a window is read as a separate window. The service counts through all entries before an
offset; in a window of a million entries it would do so five thousand times."""

NAMED_ENTRIES = 20
"""Greatest number of entries that a warning names."""

LOOK_TRIES = 2
"""Failures of an entry that is requested again, after which it stays without metadata until it is requested next."""


class DicomService:
    """A client of one DICOM service; may be used by many threads. Close it, or use it as a context manager.

    Args:
        base_url: URL of the service, without `/v2`.
        auth: adds a token to every request; None sends no token.
        api_version: version of the service's API, 2 or later.
        batch_size: entries per page, 1 to 200.
        max_concurrent_requests: greatest number of pages that are requested at one time, and read ahead.
        timeout: seconds to connect, and seconds for each read.
        retry: when to send a request again; None for the default policy.
        page_bytes: greatest decoded size of an answer with metadata. A larger page is read in parts, and a larger entry
            is read without its metadata.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: httpx.Auth | None = None,
        api_version: int = 2,
        batch_size: int = MAXIMUM_BATCH_SIZE,
        max_concurrent_requests: int = 8,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        page_bytes: int = MemoryLimit().page_bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = f"/v{api_version}/changefeed"
        self._batch_size = batch_size
        self._read_ahead = max_concurrent_requests
        self._requests = ServiceRequests(
            base_url,
            auth=auth,
            connections=max_concurrent_requests,
            timeout=httpx.Timeout(timeout),
            retry=retry or RetryPolicy(),
            clock=clock,
        )
        self._page_bytes = page_bytes
        self._pages = FeedPages(self._requests, self._path, batch_size, page_bytes)
        self._executor = ThreadPoolExecutor(max_concurrent_requests, thread_name_prefix="change-feed")
        self._lock = threading.Lock()
        self._readings: set[threading.Event] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the requests under way, and close the connections."""
        with self._lock:
            for stop in self._readings:
                stop.set()
        self._executor.shutdown(cancel_futures=True)
        self._requests.close()

    @property
    def statistics(self) -> Statistics:
        """Costs of all requests so far."""
        return self._requests.statistics

    def fetch_latest(self, *, include_metadata: bool = False) -> Entry | None:
        """Return the newest entry of the whole feed; None for an empty feed.

        Raises:
            ServiceError: as `fetch_pages`, except FeedMovedError.
        """
        without = self._query_latest(False)
        with self._reading() as stop:
            if not include_metadata:
                return self._requests.fetch(without, stop)
            entry = self._pages.ask(self._query_latest(True), [without], stop).value
        _warn_of_unreadable([] if entry is None else [entry], without.subject)
        return entry

    def has_more_than(self, entries: int, window: Window) -> bool:
        """Return whether the window has more than `entries` entries, by one small request.

        Entries never leave a window. So the answer shows whether a copy with `entries` entries is incomplete.

        Raises:
            ServiceError: as `fetch_pages`, except FeedMovedError.
        """
        with self._reading() as stop:
            return bool(self._pages.fetch_few(Piece(window, entries, 1, include_metadata=False), stop))

    def fetch_pages(self, window: Window, *, include_metadata: bool = True) -> Generator[list[Entry], None, None]:
        """Yield every entry of the window, each once, in pages that are not empty.

        Pages come in the feed's order, by time and sequence. If entries arrive between two requests, missed entries
        follow at the end.

        Pages are read at different moments. An entry that arrives between two requests moves other entries across a
        page's edge, where they are missed. But entries never leave a window: if as many entries were read as the window
        has in the end, none is missing. One small request behind the last page proves this; without the proof the
        window is read again. A single page was read at one moment and needs no proof. A window of very many entries is
        read, and proved complete, part by part.

        Args:
            window: time range of the changes.
            include_metadata: whether entries include their DICOM JSON.

        Raises:
            ServiceRefusedError: the service refuses the request.
            ServiceUnreachableError: no usable answer after every retry.
            UnreadablePageError: an answer is not a page of this window.
            FeedMovedError: entries arrived during every reading of the window.
        """
        start, pace = window.start, _Pace()
        seen: dict[int, datetime] = {}
        while start < window.end:
            part = Window(start, window.end)
            start = yield from self._fetch_part(part, seen, pace, include_metadata=include_metadata)
            for sequence in [sequence for sequence, time_ in seen.items() if time_ < start]:
                del seen[sequence]

    def compare_count(self, entries: int, window: Window) -> CountedWindow:
        """Return how the window's number of entries compares with `entries`, by one request for at most two entries.

        Raises:
            ServiceError: as `fetch_pages`, except FeedMovedError.
        """
        with self._reading() as stop:
            found = self._pages.fetch_few(Piece(window, max(0, entries - 1), 2, include_metadata=False), stop)
        if len(found) == min(entries, 1):
            return CountedWindow(Amount.EQUAL, found[0] if found else None)
        return CountedWindow(Amount.MORE if found else Amount.FEWER)

    def fetch_entries(self, entries: Iterable[tuple[int, datetime]]) -> list[Entry]:
        """Return entries of the feed in their current state, in the given order, with few requests and retries each.

        An entry with unreadable metadata comes without metadata. An entry that the service does not know is left out.

        Args:
            entries: sequence and time of each entry. Times have a zone, and microseconds: the feed's seventh decimal
                digit is cut. The metadata of all entries is held in memory at once.

        Raises:
            ServiceError: as `fetch_pages`, except FeedMovedError.
        """
        wanted = list(entries)
        sequences: dict[datetime, set[int]] = {}
        for sequence, time_ in wanted:
            sequences.setdefault(time_, set()).add(sequence)
        with self._reading() as stop:
            jobs = [self._executor.submit(self._fetch_at, *job, stop) for job in sequences.items()]
            try:
                found = {entry.sequence: entry for job in jobs for entry in job.result()}
            finally:
                stop.set()  # after a failure the other jobs end
        return [found[sequence] for sequence, _ in wanted if sequence in found]

    def _fetch_at(self, time_: datetime, sequences: set[int], stop: threading.Event) -> list[Entry]:
        """Return the entries of some sequences that share one time."""
        window = Window.of_moment(time_)
        if len(sequences) == 1:  # mostly, only one entry has this time
            (sequence,) = sequences
            entries, _ = self._pages.fetch_entry(Piece(window, 0, 1), stop, tries=LOOK_TRIES)
            if not entries or entries[0].sequence == sequence:
                return entries
        found: list[Entry] = []
        offset, is_last = 0, False
        while not is_last and len(found) < len(sequences):
            page = self._pages.fetch(Piece(window, offset, self._batch_size, include_metadata=False), stop)
            for place, entry in enumerate(page.entries, start=offset):
                if entry.sequence in sequences:
                    now, _ = self._pages.fetch_entry(Piece(window, place, 1), stop, tries=LOOK_TRIES)
                    found.append(now[0] if now and now[0].sequence == entry.sequence else entry)
            offset, is_last = offset + len(page.entries), page.is_last
        return found

    def _fetch_part(
        self, window: Window, seen: dict[int, datetime], pace: "_Pace", *, include_metadata: bool
    ) -> Generator[list[Entry], None, datetime]:
        """Yield the window's first pages, and return the time before which no entry is missing.

        That time is the window's end, or the time of the last entry. In the second case further entries of exactly this
        time may follow; `seen`, changed in place, keeps the next part from yielding an entry twice.
        """
        for _ in range(READINGS):
            end, is_one_answer = window.end, True
            with closing(self._read(window, pace, include_metadata=include_metadata)) as pages:
                for number, page in enumerate(pages, start=1):
                    is_one_answer = number == 1 and page.answers == 1 and page.is_last
                    fresh = {entry.sequence: entry for entry in page.entries if entry.sequence not in seen}
                    seen.update((sequence, read_time(entry)) for sequence, entry in fresh.items())
                    if include_metadata:
                        _warn_of_unreadable(fresh.values(), f"window {window}")
                    last = read_time(page.entries[-1]) if page.entries else window.start
                    if fresh:
                        yield list(fresh.values())
                    if number >= PAGES_PER_PART and not page.is_last and last > window.start:
                        end = last
                        break
            whole = sum(time_ < end for time_ in seen.values())
            if is_one_answer or not self.has_more_than(whole, Window(window.start, end)):
                return end
        raise FeedMovedError(
            f"The change feed did not hold still (window {window}): entries were added each of the {READINGS} times it "
            "was read. Read the window later: DICOM_WINDOW_DELAY_MINUTES is the wait after an hour's end."
        )

    def _read(self, window: Window, pace: "_Pace", *, include_metadata: bool) -> Generator[Page, None, None]:
        """Yield the window's pages in order: request the first page alone, then the more at once the more pages came.

        So a window of one page costs one request, and never more pages are requested behind the window's end than the
        window has. Memory holds at most `max_concurrent_requests` pages beside the yielded page, and of very large
        pages only one beside it. `pace`, changed in place, carries the count over from earlier parts of the window.
        """
        ahead: deque[tuple[Piece, Future[Page]]] = deque()
        offsets = count(0, self._batch_size)
        number, before = 0, None
        with self._reading() as stop:

            def submit(piece: Piece) -> tuple[Piece, Future[Page]]:
                return piece, self._executor.submit(self._pages.fetch, piece, stop)

            try:
                while True:
                    while len(ahead) <= min(pace.pages, self._read_ahead - 1, AHEAD_BYTES // max(pace.page_bytes, 1)):
                        if ahead and number + len(ahead) >= PAGES_PER_PART:
                            break  # the rest after this part is read as a separate window
                        ahead.append(submit(Piece(window, next(offsets), self._batch_size, include_metadata)))
                    piece, job = ahead.popleft()
                    page = job.result()
                    number, pace.pages, pace.page_bytes = number + 1, pace.pages + 1, page.size_bytes
                    sequences, is_last = [entry.sequence for entry in page.entries], page.is_last
                    yield page
                    if is_last or sequences == before:
                        return  # a repeated page: as many entries arrived meanwhile, or offsets are ignored
                    if (came := len(sequences)) < piece.limit:  # the page was too large for memory
                        ahead.appendleft(submit(piece.part(came, piece.limit - came)))
                    before = sequences
                    del page, job  # frees the page's metadata
            finally:
                stop.set()  # ends requests ahead that wait for their turn or for a retry

    def _query_latest(self, include_metadata: bool) -> Query[Entry | None]:
        params = {"includeMetadata": format_flag(include_metadata)}
        limit_bytes = self._page_bytes if include_metadata else SMALL_BYTES
        return Query(f"{self._path}/latest", params, parse_latest, "the newest entry", limit_bytes)

    @contextmanager
    def _reading(self) -> Iterator[threading.Event]:
        """Open a reading: yield an event that stops its requests; `close` sets the event."""
        stop = threading.Event()
        with self._lock:
            self._readings.add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._readings.discard(stop)


@dataclass
class _Pace:
    """Number and size of a window's pages that have arrived so far."""

    pages: int = 0
    page_bytes: int = 0
    """Approximate size of the last page."""


def _warn_of_unreadable(entries: Iterable[Entry], subject: str) -> None:
    """Name the entries of live instances without usable metadata in a warning."""
    found = [entry.sequence for entry in entries if not has_metadata(entry) and _is_live(entry)]
    if found:
        more = f" and {len(found) - NAMED_ENTRIES} more" if len(found) > NAMED_ENTRIES else ""
        logger.warning(
            "The service gave no usable metadata of %d entries (%s): sequences %s%s. They are stored without it, and "
            "asked for again later.",
            *(len(found), subject, ", ".join(map(str, found[:NAMED_ENTRIES])), more),
        )


def _is_live(entry: Entry) -> bool:
    """Return whether the entry's instance is live, so that it must have metadata."""
    return entry.action.lower() != "delete" and entry.state.lower() != "deleted"
