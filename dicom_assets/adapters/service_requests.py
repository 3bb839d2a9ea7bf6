"""One GET at the DICOM service: sent again while that may help, answered with parsed content or one clear error."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from http import HTTPStatus
from logging import getLogger
from typing import TypeVar

import httpx
import msgspec
import tenacity

from dicom_assets.adapters.http_client import open_http_client
from dicom_assets.adapters.retries import RetryPolicy, WorthAnotherTryError, is_worth_another_try, parse_retry_after
from dicom_assets.adapters.statistics import Statistics
from dicom_assets.core.errors import (
    ServiceError,
    ServiceRefusedError,
    ServiceUnreachableError,
    UnreadablePageError,
)

logger = getLogger(__name__)

T = TypeVar("T")

READS_PER_BODY = 10
"""Timeouts of a read that a body may take: one of which a few bytes come now and then would hold a run for a day."""
LEAST_BYTES_PER_SECOND = 10_000
"""Of a body that may take longer."""

_HINTS = {
    HTTPStatus.BAD_REQUEST: "The service did not accept the parameters: check DICOM_API_VERSION and DICOM_BATCH_SIZE.",
    HTTPStatus.UNAUTHORIZED: "The service did not accept the token, or got none: check DICOM_AUTHENTICATION, "
    "DICOM_TOKEN_SCOPE and that the identity belongs to the service's tenant.",
    HTTPStatus.FORBIDDEN: 'The identity lacks read access: grant it the "DICOM Data Reader" role on the service.',
    HTTPStatus.NOT_FOUND: "The base URL is probably wrong: check DICOM_SERVICE_URL, and that the service knows the "
    "version in DICOM_API_VERSION.",
}
_OTHER_HINT = "Check that DICOM_SERVICE_URL is the base URL of a DICOM service."


class _WorthAnotherTryError(WorthAnotherTryError):
    error_type: type[ServiceError] = ServiceUnreachableError


class _UnreadableBodyError(_WorthAnotherTryError):
    error_type = UnreadablePageError


class ServiceRequests:
    """GETs at one service over one pool of kept-alive connections; may be used by many threads.

    Args:
        base_url: Ends before `/v2`.
        auth: Puts a token on every request; None sends none.
        connections: Requests that may be under way at the same time; more wait for their turn.
        timeout: Of connecting, and of each read.
        retry: When to send a request again.
        clock: Seconds since 1970; measures `Retry-After` given as a date.
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
        self._body_seconds = READS_PER_BODY * (timeout.read or math.inf)
        self._retry = retry
        self._clock = clock
        self._lock = threading.Lock()
        self._statistics = Statistics()

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()

    @property
    def statistics(self) -> Statistics:
        """The sums of all requests so far."""
        with self._lock:
            return self._statistics

    def fetch(
        self,
        path: str,
        params: Mapping[str, str],
        parse: Callable[[bytes | bytearray], T],
        *,
        subject: str,
        stop: threading.Event,
    ) -> T:
        """The parsed answer.

        Args:
            path: Below the base URL.
            params: The query.
            parse: Makes the result from the body; whatever it cannot read is asked for again.
            subject: What is asked for, as messages and logs name it, such as its window and offset.
            stop: Once set, no further try is made.

        Raises:
            ServiceRefusedError: another try would not help (a 4xx answer).
            ServiceUnreachableError: every try ended without an answer, or with 408, 429 or a server error.
            UnreadablePageError: the answers were no JSON of the expected shape, or come from something else than a
                DICOM service.
            CancelledError: `stop` was set.
        """

        def attempt() -> T:
            if stop.is_set():
                raise CancelledError
            return self._fetch_once(path, params, parse, subject)

        def sleep(seconds: float) -> None:
            began = time.monotonic()
            stop.wait(seconds)
            self._count(Statistics(retries=1, waited_seconds=time.monotonic() - began))

        def log(state: tenacity.RetryCallState) -> None:
            logger.warning(
                "Change feed request failed: %s for %s (%s). Try %d of %d follows in %.1f s.",
                *(state.outcome.exception() if state.outcome else "", self._url(path), subject),
                *(state.attempt_number + 1, self._retry.tries, state.upcoming_sleep),
            )

        try:
            return self._retry.retrying(log, sleep)(attempt)
        except _WorthAnotherTryError as error:
            raise error.error_type(
                f"Change feed request failed: {error} for {self._url(path)} ({subject}), {self._retry.tries} times. "
                + (
                    "Something on the way cuts or alters answers, or DICOM_SERVICE_URL names no DICOM service."
                    if error.error_type is UnreadablePageError
                    else "The service is busy, or cannot be reached: check DICOM_SERVICE_URL and the network, or "
                    "try again later."
                )
            ) from error.__cause__

    def _fetch_once(
        self, path: str, params: Mapping[str, str], parse: Callable[[bytes | bytearray], T], subject: str
    ) -> T:
        try:
            with self._client.stream("GET", path, params=dict(params)) as response:
                body = _receive(response, self._body_seconds)
        except httpx.DecodingError as error:
            raise _UnreadableBodyError("a corrupt body") from error
        except httpx.TransportError as error:
            raise _WorthAnotherTryError(f"no answer ({type(error).__name__})") from error
        self._count(Statistics(bytes=response.num_bytes_downloaded))
        self._check(response, body, path, subject)
        try:
            parsed = parse(body)
        # A wrong byte inside a string is a UnicodeDecodeError, whose text holds the body: it is not the cause here.
        except (UnicodeDecodeError, RecursionError):
            raise _UnreadableBodyError("a body that is no JSON") from None
        except msgspec.DecodeError as error:
            raise _UnreadableBodyError(f"an unreadable body ({error})") from error
        self._count(Statistics(pages=1))
        return parsed

    def _check(self, response: httpx.Response, body: bytearray, path: str, subject: str) -> None:
        """Passes an answer whose body is worth reading.

        Raises:
            _WorthAnotherTryError: the service may answer another time.
            ServiceRefusedError: it will not.
            UnreadablePageError: this is no DICOM service.
        """
        status = response.status_code
        where = f"{self._url(path)} ({subject})"
        if is_worth_another_try(response):
            raise _WorthAnotherTryError(str(status), parse_retry_after(response, self._clock))
        if response.is_client_error:
            hint = _HINTS.get(HTTPStatus(status), _OTHER_HINT) if status in list(HTTPStatus) else _OTHER_HINT
            raise ServiceRefusedError(f"Change feed request failed: {status} for {where}. {hint}")
        if response.is_redirect:  # where to is not told: addresses of sign-in pages hold state
            raise UnreadablePageError(
                f"Change feed request failed: {status}, a redirect, for {where}. A DICOM service never redirects: "
                "check DICOM_SERVICE_URL."
            )
        if "html" in response.headers.get("Content-Type", "").lower() or body[:64].lstrip().startswith(b"<"):
            raise UnreadablePageError(
                f"Change feed request failed: an HTML page instead of JSON from {where}. A portal or proxy answers "
                "there: check DICOM_SERVICE_URL."
            )

    def _url(self, path: str) -> str:
        return f"{str(self._client.base_url).rstrip('/')}{path}"

    def _count(self, more: Statistics) -> None:
        with self._lock:
            self._statistics += more


def _receive(response: httpx.Response, longest_seconds: float) -> bytearray:
    """The body, in one piece from the start: pieces that are joined in the end take twice the memory, and more.

    Raises:
        httpx.ReadTimeout: it takes longer, and comes too slowly.
    """
    body, give_up_at = bytearray(), time.monotonic() + longest_seconds
    for piece in response.iter_bytes():
        body += piece
        if time.monotonic() > give_up_at + len(body) / LEAST_BYTES_PER_SECOND:
            raise httpx.ReadTimeout("the body does not end", request=response.request)
    return body
