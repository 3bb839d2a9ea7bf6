"""The change feed of a DICOM service: the pages of a window, complete even while entries arrive.

Source: API v2 and later of the DICOM service; see `core/change_feed.py` for what an entry is.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from types import TracebackType
from typing import Self

import httpx

from dicom_assets.adapters.retries import RetryPolicy
from dicom_assets.adapters.service_requests import ServiceRequests
from dicom_assets.adapters.statistics import Statistics
from dicom_assets.core.change_feed import Entry, Window, parse_latest, parse_page
from dicom_assets.core.errors import FeedMovedError, UnreadablePageError

MAXIMUM_BATCH_SIZE = 200
"""The greatest page the service gives."""

DEFAULT_TIMEOUT = httpx.Timeout(60, connect=10, pool=None)
"""Seconds; a request waits for its turn as long as it takes."""

AHEAD_BYTES = 64 * 2**20
"""Size of the pages that are read ahead, about, if they are like the last one: there are instances whose metadata alone
has megabytes, and pages of 200 of them."""

READINGS = 5
"""How often a window is read before its entries are declared restless."""

PAGES_PER_PART = 50
"""Pages after which the rest of a window is asked for as a window of its own: the service counts through all entries
before an offset, and would do so five thousand times in a window of a million."""


class DicomService:
    """A client of one DICOM service; may be used by many threads. Close it, or use it as a context manager.

    Args:
        base_url: Of the service, without `/v2`.
        auth: Puts a token on every request; None sends none.
        api_version: 2 or later.
        batch_size: Entries per page, 1 to 200.
        max_concurrent_requests: Pages that are requested at the same time, and read ahead of whoever consumes them.
        timeout: Of connecting and of each read, in seconds.
        retry: When to send a request again.
        clock: Seconds since 1970.
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
        """Ends what is under way and gives the connections back."""
        with self._lock:
            for stop in self._readings:
                stop.set()
        self._executor.shutdown(cancel_futures=True)
        self._requests.close()

    @property
    def statistics(self) -> Statistics:
        """What the requests cost so far."""
        return self._requests.statistics

    def fetch_latest(self, *, include_metadata: bool = False) -> Entry | None:
        """The newest entry of the whole feed; None for an empty feed.

        Raises:
            ServiceError: as `fetch_pages`, but for FeedMovedError.
        """
        params = {"includeMetadata": _flag(include_metadata)}
        with self._reading() as stop:
            return self._requests.fetch(
                f"{self._path}/latest", params, parse_latest, subject="the newest entry", stop=stop
            )

    def has_more_than(self, entries: int, window: Window) -> bool:
        """Whether the window holds more entries than that many: one small request, however many they are.

        Entries never leave a window, so this tells whether any is missing from a copy that holds `entries` of them.

        Raises:
            ServiceError: as `fetch_pages`, but for FeedMovedError.
        """
        with self._reading() as stop:
            return bool(self._fetch_page(window, entries, 1, False, stop))

    def fetch_pages(self, window: Window, *, include_metadata: bool = True) -> Generator[list[Entry], None, None]:
        """Every entry of the window, each once, in pages that are not empty.

        Pages come in the feed's order, by time and sequence. Where entries arrived between two requests, those that
        were missed follow at the end.

        Pages are read at different moments, so an entry that arrives in between moves others across a page's edge,
        where they are missed. But entries never leave a window: if as many were seen as there are in the end, none is
        missing. One small request behind the last page proves it; else the window is read again. A single page was
        read at one moment and needs no proof. A window of very many entries is read, and proved, part by part.

        Args:
            window: The times of the changes.
            include_metadata: Whether entries bring their DICOM JSON.

        Raises:
            ServiceRefusedError: the service refuses the request.
            ServiceUnreachableError: no usable answer after every retry.
            UnreadablePageError: an answer that is no page of this window.
            FeedMovedError: entries kept arriving through every reading of the window.
        """
        start, pace = window.start, _Pace()
        seen: dict[int, datetime] = {}
        while start < window.end:
            part = Window(start, window.end)
            start = yield from self._fetch_part(part, seen, pace, include_metadata=include_metadata)
            for sequence in [sequence for sequence, time_ in seen.items() if time_ < start]:
                del seen[sequence]

    def holds_exactly(self, entries: int, window: Window) -> bool:
        """Whether the window has that many entries now; one request for two entries at most, whatever their number.

        Raises:
            ServiceError: as `fetch_pages`, but for FeedMovedError.
        """
        return len(self.fetch_end(entries, window)) == min(entries, 1)

    def fetch_end(self, entries: int, window: Window) -> list[Entry]:
        """The last entry of a window that has that many entries; two or none where it has more or fewer.

        Of a window that must be empty: nothing, or what it has, two entries at most. One request in any case.

        Raises:
            ServiceError: as `fetch_pages`, but for FeedMovedError.
        """
        with self._reading() as stop:
            return self._fetch_page(window, max(0, entries - 1), 2, False, stop)

    def _fetch_part(
        self, window: Window, seen: dict[int, datetime], pace: "_Pace", *, include_metadata: bool
    ) -> Generator[list[Entry], None, datetime]:
        """The window's first pages. Returns the time up to which none is missing: its end, or that of the last entry.

        In the second case other entries of that very time may follow: `seen` tells the rest which were given out.
        """
        for _ in range(READINGS):
            number, end = 0, window.end
            with closing(self._read(window, pace, include_metadata=include_metadata)) as pages:
                for number, page in enumerate(pages, start=1):
                    fresh = {entry.sequence: entry for entry in page if entry.sequence not in seen}
                    seen.update((sequence, _time(entry)) for sequence, entry in fresh.items())
                    if fresh:
                        yield list(fresh.values())
                    if number >= PAGES_PER_PART and len(page) == self._batch_size and _time(page[-1]) > window.start:
                        end = _time(page[-1])
                        break
            whole = sum(time_ < end for time_ in seen.values())
            if number <= 1 or not self.has_more_than(whole, Window(window.start, end)):
                return end
        raise FeedMovedError(
            f"The change feed did not hold still (window {window}): entries were added each of the {READINGS} times it "
            "was read. Read the window later: DICOM_WINDOW_DELAY_MINUTES is the wait after an hour's end."
        )

    def _read(self, window: Window, pace: "_Pace", *, include_metadata: bool) -> Generator[list[Entry], None, None]:
        """The window's pages in order, as served: the first alone, then the more at once the more there were.

        So a window of one page costs one request, and there are never more requests behind the window's end than pages
        in it, nor more pages in memory than `max_concurrent_requests` and the one given out, or of very large ones than
        one beside it. What `pace` tells of parts before this one counts too.
        """
        ahead: deque[Future[list[Entry]]] = deque()
        offsets = count(0, self._batch_size)
        number, before = 0, None
        with self._reading() as stop:
            try:
                while True:
                    while len(ahead) <= min(pace.pages, self._read_ahead - 1, AHEAD_BYTES // max(pace.page_bytes, 1)):
                        if ahead and number + len(ahead) >= PAGES_PER_PART:
                            break  # what comes after the part is asked for as a window of its own
                        job = (window, next(offsets), self._batch_size, include_metadata, stop)
                        ahead.append(self._executor.submit(self._fetch_page, *job))
                    page = ahead.popleft().result()
                    number, pace.pages, pace.page_bytes = number + 1, pace.pages + 1, _size_bytes(page)
                    sequences = [entry.sequence for entry in page]
                    yield page
                    if len(sequences) < self._batch_size or sequences == before:
                        return  # the same as before: a whole page arrived, or offsets are ignored, which has no end
                    before, page = sequences, []  # its metadata is not held any longer
            finally:
                stop.set()  # pages ahead that wait for their turn, or for another try, give up

    def _fetch_page(
        self, window: Window, offset: int, limit: int, include_metadata: bool, stop: threading.Event
    ) -> list[Entry]:
        params = {
            "startTime": _utc(window.start),
            "endTime": _utc(window.end),
            "offset": str(offset),
            "limit": str(limit),
            "includeMetadata": _flag(include_metadata),
        }
        subject = f"window {window}, offset {offset}"
        page = self._requests.fetch(self._path, params, parse_page, subject=subject, stop=stop)
        for entry in page:
            _check_inside(entry, window, subject)
        return page

    @contextmanager
    def _reading(self) -> Iterator[threading.Event]:
        """An event that stops what is under way, set at the latest when the client closes."""
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
    """What is known of a window's pages from those that came."""

    pages: int = 0
    page_bytes: int = 0
    """Of the last one, about."""


def _check_inside(entry: Entry, window: Window, subject: str) -> None:
    try:
        inside = window.start <= _time(entry) < window.end
    except (ValueError, TypeError):  # TypeError: without a zone
        raise UnreadablePageError(
            f"The timestamp of sequence {entry.sequence} is no time with a zone ({subject}). The service answers in a "
            "form that the client does not know: check DICOM_API_VERSION."
        ) from None
    if not inside:
        raise UnreadablePageError(
            f"Sequence {entry.sequence} lies outside of what was asked for ({subject}). Whatever answers ignores "
            "startTime and endTime: check that DICOM_SERVICE_URL is a DICOM service, and DICOM_API_VERSION."
        )


def _size_bytes(page: list[Entry]) -> int:
    """About what a page takes in memory."""
    return sum(memoryview(entry.metadata).nbytes for entry in page) + 1000 * len(page)


def _time(entry: Entry) -> datetime:
    """The entry's time; its seventh digit is cut."""
    return datetime.fromisoformat(entry.timestamp)


def _utc(time_: datetime) -> str:
    return time_.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _flag(value: bool) -> str:
    return "true" if value else "false"
