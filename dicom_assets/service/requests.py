"""GET requests to the DICOM service: retried while a retry may help, ending in parsed content or one clear error."""

import math
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from logging import getLogger
from typing import Generic, TypeVar

import httpx
import msgspec

from dicom_assets.core.errors import UnreadablePageError
from dicom_assets.network.client import open_http_client
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service.answers import BUSY_HINT, CUT_HINT, FailedTryError, Trouble, check_answer, receive_body
from dicom_assets.service.statistics import Statistics

logger = getLogger(__name__)

T = TypeVar("T")

READS_PER_BODY = 10
"""Time that a body may take, in read timeouts: a body of which a few bytes arrive now and then could hold a run for a
day."""
SMALL_BYTES = 8 * 2**20
"""Decoded size of an answer without metadata, at most; 200 entries with the longest UIDs and paths take a tenth."""


@dataclass(frozen=True)
class Query(Generic[T]):
    """One GET request, and the way to read its answer."""

    path: str
    """Path below the base URL."""
    params: Mapping[str, str]
    parse: Callable[[bytes | bytearray], T]
    """Function that builds the result from the body; where it cannot decode a body, the request is retried."""
    subject: str
    """Name of the requested content in messages and logs, such as a window and an offset."""
    limit_bytes: int = SMALL_BYTES
    """Decoded size of the body, at most."""


class ServiceRequests:
    """Client for GET requests to one service, over one pool of kept-alive connections; may be used by many threads.

    Args:
        base_url: URL of the service, up to but not including `/v2`.
        auth: puts a token on every request; None sends no token.
        connections: requests that may be under way at the same time; further requests wait for their turn.
        timeout: timeout of connecting, and of each read.
        retry: policy by which failed requests are retried.
        clock: returns the time in seconds since 1970; needed for a `Retry-After` that is a date.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: httpx.Auth | None = None,
        connections: int = 8,
        timeout: httpx.Timeout,
        retry: RetryPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = open_http_client(base_url, auth=auth, timeout=timeout, limits=limits)
        self._client.headers["Accept-Encoding"] = "gzip"
        self._body_seconds = READS_PER_BODY * (timeout.read or math.inf)
        self.retry = retry
        self._clock = clock
        self._lock = threading.Lock()
        self._statistics = Statistics()
        self._accepted: dict[str, int] = {}

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @property
    def statistics(self) -> Statistics:
        """Totals of all requests so far."""
        with self._lock:
            return self._statistics

    def count(self, more: Statistics) -> None:
        """Add statistics to the totals."""
        with self._lock:
            self._statistics += more

    def fetch(self, query: Query[T], stop: threading.Event) -> T:
        """Return the parsed answer to a query; a failed request is retried as the policy says.

        Raises:
            ServiceRefusedError: a retry would not help (a 4xx answer).
            ServiceUnreachableError: every try ended without an answer, or with a server error or a refusal that passes.
            UnreadablePageError: the answers are not JSON of the expected shape, are too large, or do not come from a
                DICOM service.
            CancelledError: `stop` was set.
        """
        tries = self.begin(query, stop)
        while True:
            try:
                return self.ask(query, stop)
            except FailedTryError as error:
                tries.count_failure(error)

    def begin(
        self, query: Query[T], stop: threading.Event, *, most: int | None = None, longest_wait_seconds: float = math.inf
    ) -> "Tries":
        """Return a new counter of a query's tries.

        Args:
            query: the query.
            stop: once set, no further try is made.
            most: number of tries; None for the policy's.
            longest_wait_seconds: upper bound of waits that the service does not ask for.
        """
        policy = self.retry.bounded(longest_wait_seconds)
        return Tries(policy, most or policy.tries, self._name(query), stop, self.count)

    def ask(self, query: Query[T], stop: threading.Event) -> T:
        """Send a query once and return the parsed answer.

        Raises:
            FailedTryError: the try failed; another try, or another query, may succeed.
            ServiceRefusedError: no retry would help (a 4xx answer).
            UnreadablePageError: the answer does not come from a DICOM service.
            CancelledError: `stop` was set.
        """
        if stop.is_set():
            raise CancelledError
        try:
            with self._client.stream("GET", query.path, params=dict(query.params)) as response:
                body = receive_body(response, query.limit_bytes, self._body_seconds)
        except zlib.error:
            raise FailedTryError("a corrupt body", CUT_HINT, error_type=UnreadablePageError) from None
        except httpx.TransportError as error:
            trouble = Trouble.SLOW if isinstance(error, httpx.ReadTimeout) else Trouble.FAILED
            raise FailedTryError(f"no answer ({type(error).__name__})", BUSY_HINT, trouble=trouble) from error
        self.count(Statistics(bytes=response.num_bytes_downloaded))
        where, was_accepted = self._name(query), self._was_accepted(query)
        check_answer(response, body, where, was_accepted=was_accepted, clock=self._clock)
        try:
            parsed = query.parse(body)
        # A wrong byte inside a string gives a UnicodeDecodeError. Its text holds the body: it must not be the cause.
        except (UnicodeDecodeError, RecursionError):
            raise FailedTryError("a body that is no JSON", CUT_HINT, error_type=UnreadablePageError) from None
        except msgspec.DecodeError as error:
            raise FailedTryError(f"an unreadable body ({error})", CUT_HINT, error_type=UnreadablePageError) from error
        self.count(Statistics(pages=1))
        self._accept(query)
        return parsed

    def _accept(self, query: Query[T]) -> None:
        limit = int(query.params.get("limit", 0))
        with self._lock:
            self._accepted[query.path] = max(limit, self._accepted.get(query.path, 0))

    def _was_accepted(self, query: Query[T]) -> bool:
        """Return whether the service answered a query of this path before, with at least this `limit`."""
        with self._lock:
            return self._accepted.get(query.path, -1) >= int(query.params.get("limit", 0))

    def _name(self, query: Query[T]) -> str:
        """Return URL and subject of a query, for messages."""
        return f"{str(self._client.base_url).rstrip('/')}{query.path} ({query.subject})"


@dataclass
class Tries:
    """Counter of one query's failed tries, which waits between tries and raises the error after the last."""

    policy: RetryPolicy
    most: int
    """Number of tries, without tries that fail with `Trouble.PASSING`."""
    where: str
    """URL and subject of the query, for messages."""
    stop: threading.Event
    """Event that ends a wait."""
    count: Callable[[Statistics], None]
    """Receives the cost of each retry."""
    _failed: int = 0
    _passing: int = 0

    def count_failure(self, error: FailedTryError) -> None:
        """Count a failed try, and wait before the next.

        Tries that fail with `Trouble.PASSING` have a count of their own: they say nothing about the query.

        Raises:
            ServiceError: no try is left, or a retry cannot help.
        """
        if error.trouble is Trouble.PASSING:
            self._passing += 1
            number, most = self._passing, self.policy.tries
        else:
            self._failed += 1
            number, most = self._failed, self.most
        if error.is_final or number >= most:
            times = "" if error.is_final else f", {number} times"
            message = f"Change feed request failed: {error} for {self.where}{times}. {error.hint}"
            raise error.error_type(message) from error.__cause__
        seconds = self.policy.wait_after(self._failed + self._passing, error.retry_after_seconds)
        logger.warning(
            "Change feed request failed: %s for %s. Try %d of %d follows in %.1f s.",
            *(error, self.where, number + 1, most, seconds),
        )
        began = time.monotonic()
        self.stop.wait(seconds)
        self.count(Statistics(retries=1, waited_seconds=time.monotonic() - began))
