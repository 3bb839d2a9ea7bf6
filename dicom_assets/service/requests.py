"""GET requests to the DICOM service: retried while a retry may help, ending in parsed content or one clear error.

Bodies are decompressed here, piece by piece: the decoded size of a compressed body is known only afterwards, and a few
kilobytes may become gigabytes.
"""

import enum
import math
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from http import HTTPStatus
from logging import getLogger
from typing import Generic, TypeVar

import httpx
import msgspec

from dicom_assets.core.errors import (
    ServiceError,
    ServiceRefusedError,
    ServiceUnreachableError,
    UnreadablePageError,
)
from dicom_assets.network.client import open_http_client
from dicom_assets.network.retries import RetryPolicy, WorthAnotherTryError, is_worth_another_try, parse_retry_after
from dicom_assets.service.statistics import Statistics

logger = getLogger(__name__)

T = TypeVar("T")

READS_PER_BODY = 10
"""Time that a body may take, in read timeouts: a body of which a few bytes arrive now and then could hold a run for a
day."""
LEAST_BYTES_PER_SECOND = 10_000
"""Rate at which a body must arrive to be allowed more time than that."""
SMALL_BYTES = 8 * 2**20
"""Decoded size of an answer without metadata, at most; 200 entries with the longest UIDs and paths take a tenth."""
_PIECE_BYTES = 2**20
"""Decoded size of one piece of a body, at most."""
_DRAINED_BYTES = 2**16
"""Bytes of an error's body that are read, unparsed, so that the connection can be used again."""
_CODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}
"""Supported content encodings, and whether they are gzip. Requests ask for no other encoding."""

_HINTS = {
    HTTPStatus.BAD_REQUEST: "The service did not accept the parameters: check DICOM_API_VERSION and DICOM_BATCH_SIZE.",
    HTTPStatus.UNAUTHORIZED: "The service did not accept the token, or got none: check DICOM_AUTHENTICATION, "
    "DICOM_TOKEN_SCOPE and that the identity belongs to the service's tenant.",
    HTTPStatus.FORBIDDEN: 'The identity lacks read access: grant it the "DICOM Data Reader" role on the service.',
    HTTPStatus.NOT_FOUND: "The base URL is probably wrong: check DICOM_SERVICE_URL, and that the service knows the "
    "version in DICOM_API_VERSION.",
}
_OTHER_HINT = "Check that DICOM_SERVICE_URL is the base URL of a DICOM service."
_BUSY_HINT = "The service is busy, or cannot be reached: check DICOM_SERVICE_URL and the network, or try again later."
_CUT_HINT = "Something on the way cuts or alters answers, or DICOM_SERVICE_URL names no DICOM service."
_PASSING_HINTS = {
    HTTPStatus.BAD_REQUEST: "The service accepted such parameters before, so it probably cancelled its own work, as "
    "under load: try again later.",
    HTTPStatus.CONFLICT: "Something else that the service does is in the way, which usually passes: try again later.",
    HTTPStatus.FAILED_DEPENDENCY: "The service cannot reach what it depends on, probably its own customer-managed key "
    "or storage: have its operator check the key vault, the key and the access of the service's identity to both.",
}
_PASSING = frozenset({HTTPStatus.CONFLICT, HTTPStatus.FAILED_DEPENDENCY})
"""Status codes of refusals that usually pass by themselves."""
_SLOW = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT})
"""Status codes of a gateway when an answer takes too long."""


class Trouble(enum.Enum):
    """Kind of a failed try: what the failure says about the query."""

    PASSING = enum.auto()
    """Nothing about the query: the service throttles, or something around it is in the way."""
    FAILED = enum.auto()
    """An error, no answer, or an unreadable answer."""
    SLOW = enum.auto()
    """No answer in time; every further try may take as long."""
    REFUSED = enum.auto()
    """400 for parameters that the service never accepted before."""
    TOO_LARGE = enum.auto()
    """A decoded body above the memory limit."""


class FailedTryError(WorthAnotherTryError):
    """Failed try of a query; its text holds nothing of the body."""

    def __init__(
        self,
        reason: str,
        hint: str,
        *,
        error_type: type[ServiceError] = ServiceUnreachableError,
        trouble: Trouble = Trouble.FAILED,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason, retry_after_seconds)
        self.hint = hint
        self.error_type = error_type
        self.trouble = trouble

    @property
    def is_final(self) -> bool:
        """True if retrying the request cannot help."""
        return self.trouble in (Trouble.REFUSED, Trouble.TOO_LARGE)


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
                tries.failed(error)

    def begin(
        self,
        query: Query[T],
        stop: threading.Event,
        *,
        most: int | None = None,
        longest_wait_seconds: float = math.inf,
    ) -> "Tries":
        """Return a new counter of a query's tries.

        Args:
            query: the query.
            stop: once set, no further try is made.
            most: number of tries; None for the policy's.
            longest_wait_seconds: upper bound of waits that the service does not ask for.
        """
        policy = self.retry.bounded(longest_wait_seconds)
        return Tries(policy, most or policy.tries, f"{self._url(query.path)} ({query.subject})", stop, self.count)

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
                body = self._receive(response, query)
        except zlib.error:
            raise FailedTryError("a corrupt body", _CUT_HINT, error_type=UnreadablePageError) from None
        except httpx.TransportError as error:
            trouble = Trouble.SLOW if isinstance(error, httpx.ReadTimeout) else Trouble.FAILED
            raise FailedTryError(f"no answer ({type(error).__name__})", _BUSY_HINT, trouble=trouble) from error
        self.count(Statistics(bytes=response.num_bytes_downloaded))
        self._check(response, body, query)
        try:
            parsed = query.parse(body)
        # A wrong byte inside a string gives a UnicodeDecodeError. Its text holds the body: it must not be the cause.
        except (UnicodeDecodeError, RecursionError):
            raise FailedTryError("a body that is no JSON", _CUT_HINT, error_type=UnreadablePageError) from None
        except msgspec.DecodeError as error:
            raise FailedTryError(f"an unreadable body ({error})", _CUT_HINT, error_type=UnreadablePageError) from error
        self.count(Statistics(pages=1))
        self._accept(query)
        return parsed

    def _receive(self, response: httpx.Response, query: Query[T]) -> bytearray:
        """Return the decoded body.

        It grows in one buffer: joining pieces at the end would take twice the memory.

        Raises:
            FailedTryError: the body is too large, or has an encoding that was not asked for.
            httpx.ReadTimeout: the body takes too long and arrives too slowly.
            zlib.error: the body does not match its encoding.
        """
        body, give_up_at = bytearray(), time.monotonic() + self._body_seconds
        limit_bytes = query.limit_bytes if response.is_success else _DRAINED_BYTES
        for piece in _decode(response) if response.is_success else response.iter_raw():
            body += piece
            if len(body) > limit_bytes:
                if not response.is_success:
                    break
                raise _too_large(limit_bytes)
            if time.monotonic() > give_up_at + len(body) / LEAST_BYTES_PER_SECOND:
                raise httpx.ReadTimeout("the body does not end", request=response.request)
        return body

    def _check(self, response: httpx.Response, body: bytearray, query: Query[T]) -> None:
        """Check that an answer's body is worth parsing.

        Raises:
            FailedTryError: the answer is an error that a retry may overcome.
            ServiceRefusedError: the answer is an error that a retry cannot overcome.
            UnreadablePageError: the answer does not come from a DICOM service.
        """
        status = response.status_code
        where = f"{self._url(query.path)} ({query.subject})"
        if response.is_client_error or response.is_server_error:
            if (failure := self._explain(response, query)) is not None:
                raise failure
            hint = _HINTS.get(HTTPStatus(status), _OTHER_HINT) if status in list(HTTPStatus) else _OTHER_HINT
            raise ServiceRefusedError(f"Change feed request failed: {status} for {where}. {hint}")
        if (
            response.is_redirect or not response.is_success
        ):  # the target stays unnamed: URLs of sign-in pages hold state
            raise UnreadablePageError(
                f"Change feed request failed: {status}, a redirect, for {where}. A DICOM service never redirects: "
                "check DICOM_SERVICE_URL."
            )
        if "html" in response.headers.get("Content-Type", "").lower() or body[:64].lstrip().startswith(b"<"):
            raise UnreadablePageError(
                f"Change feed request failed: an HTML page instead of JSON from {where}. A portal or proxy answers "
                "there: check DICOM_SERVICE_URL."
            )

    def _explain(self, response: httpx.Response, query: Query[T]) -> FailedTryError | None:
        """Return the failed try that an error answer stands for; None if the error is final for any query."""
        status, after = response.status_code, parse_retry_after(response, self._clock)
        if status == HTTPStatus.BAD_REQUEST and not self._was_accepted(query):
            hint = _HINTS[HTTPStatus.BAD_REQUEST]
            return FailedTryError(str(status), hint, error_type=ServiceRefusedError, trouble=Trouble.REFUSED)
        if status == HTTPStatus.BAD_REQUEST:
            return FailedTryError(str(status), _PASSING_HINTS[HTTPStatus.BAD_REQUEST])
        if status in _PASSING:
            hint = _PASSING_HINTS[HTTPStatus(status)]
            return FailedTryError(str(status), hint, trouble=Trouble.PASSING, retry_after_seconds=after)
        if not is_worth_another_try(response):
            return None
        trouble = Trouble.SLOW if status in _SLOW else Trouble.FAILED
        if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.SERVICE_UNAVAILABLE and after is not None):
            trouble = Trouble.PASSING
        return FailedTryError(str(status), _BUSY_HINT, trouble=trouble, retry_after_seconds=after)

    def _accept(self, query: Query[T]) -> None:
        limit = int(query.params.get("limit", 0))
        with self._lock:
            self._accepted[query.path] = max(limit, self._accepted.get(query.path, 0))

    def _was_accepted(self, query: Query[T]) -> bool:
        """Return whether the service answered a query of this path before, with at least this `limit`."""
        with self._lock:
            return self._accepted.get(query.path, -1) >= int(query.params.get("limit", 0))

    def _url(self, path: str) -> str:
        return f"{str(self._client.base_url).rstrip('/')}{path}"


class Tries:
    """Counter of one query's failed tries, which waits between tries and raises the error after the last."""

    def __init__(
        self,
        policy: RetryPolicy,
        most: int,
        where: str,
        stop: threading.Event,
        count: Callable[[Statistics], None],
    ) -> None:
        self._policy = policy
        self._most = most
        self._where = where
        self._stop = stop
        self._count = count
        self._failed = self._passing = 0

    def failed(self, error: FailedTryError) -> None:
        """Count a failed try, and wait before the next.

        Tries that fail with `Trouble.PASSING` have a count of their own: they say nothing about the query.

        Raises:
            ServiceError: no try is left, or a retry cannot help.
        """
        if error.is_final:
            raise error.error_type(f"Change feed request failed: {error} for {self._where}. {error.hint}") from (
                error.__cause__
            )
        if error.trouble is Trouble.PASSING:
            self._passing += 1
            number, most = self._passing, self._policy.tries
        else:
            self._failed += 1
            number, most = self._failed, self._most
        if number >= most:
            raise error.error_type(
                f"Change feed request failed: {error} for {self._where}, {number} times. {error.hint}"
            ) from error.__cause__
        seconds = self._policy.wait_after(self._failed + self._passing, error.retry_after_seconds)
        logger.warning(
            "Change feed request failed: %s for %s. Try %d of %d follows in %.1f s.",
            *(error, self._where, number + 1, most, seconds),
        )
        began = time.monotonic()
        self._stop.wait(seconds)
        self._count(Statistics(retries=1, waited_seconds=time.monotonic() - began))


def _too_large(limit_bytes: int) -> FailedTryError:
    return FailedTryError(
        f"a body of more than {limit_bytes / 2**20:,.0f} MiB once decoded",
        "Reading stopped there, to keep within DICOM_MAX_MEMORY_MB. Either it is a decompression bomb, from something "
        "else than a DICOM service: check DICOM_SERVICE_URL and what lies between. Or an entry is that large: raise "
        "DICOM_MAX_MEMORY_MB.",
        error_type=UnreadablePageError,
        trouble=Trouble.TOO_LARGE,
    )


def _decode(response: httpx.Response) -> Iterable[bytes]:
    """Return the body's decoded pieces, each of a bounded size.

    Raises:
        FailedTryError: the encoding was not asked for, such as a second encoding inside gzip.
    """
    is_gzip = _CODINGS.get(response.headers.get("Content-Encoding", "").strip().lower())
    if is_gzip is None:
        raise FailedTryError("a body in an encoding that was not asked for", _CUT_HINT, error_type=UnreadablePageError)
    return _inflate(response.iter_raw()) if is_gzip else response.iter_raw()


def _inflate(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decompressed pieces of a gzip body, which may have several members.

    Raises:
        zlib.error: the body is not gzip, or its end is missing.
    """
    inflater, is_begun = zlib.decompressobj(zlib.MAX_WBITS | 16), False
    for piece in pieces:
        rest, is_full = piece, False
        while rest or is_full:
            if inflater.eof:
                inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
            decoded = inflater.decompress(rest, _PIECE_BYTES)
            rest = inflater.unconsumed_tail or inflater.unused_data
            is_full = len(decoded) == _PIECE_BYTES and not inflater.eof
            is_begun = True
            yield decoded
    if is_begun and not inflater.eof:
        raise zlib.error("incomplete")
