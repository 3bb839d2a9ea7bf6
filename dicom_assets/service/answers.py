"""Answers of the DICOM service: bodies decoded within bounds, and the failure that an answer stands for.

Bodies are decompressed here, piece by piece: the decoded size of a compressed body is known only afterwards, and a few
kilobytes may become gigabytes.
"""

import enum
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

import httpx

from dicom_assets.core.errors import ServiceError, ServiceRefusedError, ServiceUnreachableError, UnreadablePageError
from dicom_assets.network.retries import RetryableError, is_retryable, parse_retry_after

LEAST_BYTES_PER_SECOND = 10_000
"""Rate at which a body must arrive to be allowed more time than `body_seconds`."""
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
BUSY_HINT = "The service is busy, or cannot be reached: check DICOM_SERVICE_URL and the network, or try again later."
CUT_HINT = "Something on the way cuts or alters answers, or DICOM_SERVICE_URL names no DICOM service."
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


class FailedTryError(RetryableError):
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


def receive_body(response: httpx.Response, limit_bytes: int, body_seconds: float) -> bytearray:
    """Return the decoded body of an answer.

    It grows in one buffer: joining pieces at the end would take twice the memory.

    Args:
        response: an answer whose body was not read yet.
        limit_bytes: greatest decoded size of a successful answer's body. Of an error's body only the start is read.
        body_seconds: time that the body may take; a body that arrives fast enough may take longer.

    Raises:
        FailedTryError: the body is too large, or has an encoding that was not asked for.
        httpx.ReadTimeout: the body takes too long and arrives too slowly.
        zlib.error: the body does not match its encoding.
    """
    body, give_up_at = bytearray(), time.monotonic() + body_seconds
    for piece in _decode(response) if response.is_success else response.iter_raw():
        body += piece
        if len(body) > limit_bytes and response.is_success:
            raise _too_large(limit_bytes)
        if len(body) > _DRAINED_BYTES and not response.is_success:
            break
        if time.monotonic() > give_up_at + len(body) / LEAST_BYTES_PER_SECOND:
            raise httpx.ReadTimeout("the body does not end", request=response.request)
    return body


def check_answer(
    response: httpx.Response, body: bytearray, where: str, *, was_accepted: bool, clock: Callable[[], float]
) -> None:
    """Check that an answer's body is worth parsing.

    Args:
        response: the answer.
        body: its decoded body.
        where: URL and subject of the request, for messages.
        was_accepted: whether the service has answered such a request before.
        clock: returns the time in seconds since 1970.

    Raises:
        FailedTryError: the answer is an error that a retry, or another query, may overcome.
        ServiceRefusedError: the answer is an error that nothing can overcome.
        UnreadablePageError: the answer does not come from a DICOM service.
    """
    status = response.status_code
    if response.is_client_error or response.is_server_error:
        if (failure := _find_failure(response, was_accepted=was_accepted, clock=clock)) is not None:
            raise failure
        hint = _HINTS.get(HTTPStatus(status), _OTHER_HINT) if status in list(HTTPStatus) else _OTHER_HINT
        raise ServiceRefusedError(f"Change feed request failed: {status} for {where}. {hint}")
    if not response.is_success:  # the target stays unnamed: URLs of sign-in pages hold state
        raise UnreadablePageError(
            f"Change feed request failed: {status}, a redirect, for {where}. A DICOM service never redirects: check "
            "DICOM_SERVICE_URL."
        )
    if "html" in response.headers.get("Content-Type", "").lower() or body[:64].lstrip().startswith(b"<"):
        raise UnreadablePageError(
            f"Change feed request failed: an HTML page instead of JSON from {where}. A portal or proxy answers there: "
            "check DICOM_SERVICE_URL."
        )


def _find_failure(response: httpx.Response, *, was_accepted: bool, clock: Callable[[], float]) -> FailedTryError | None:
    """Return the failed try that an error answer stands for; None if the error is final for any query."""
    status, after = response.status_code, parse_retry_after(response.headers, clock)
    if status == HTTPStatus.BAD_REQUEST and was_accepted:
        return FailedTryError(str(status), _PASSING_HINTS[HTTPStatus.BAD_REQUEST])
    if status == HTTPStatus.BAD_REQUEST:
        hint = _HINTS[HTTPStatus.BAD_REQUEST]
        return FailedTryError(str(status), hint, error_type=ServiceRefusedError, trouble=Trouble.REFUSED)
    if status in _PASSING:
        hint = _PASSING_HINTS[HTTPStatus(status)]
        return FailedTryError(str(status), hint, trouble=Trouble.PASSING, retry_after_seconds=after)
    if not is_retryable(response):
        return None
    trouble = Trouble.SLOW if status in _SLOW else Trouble.FAILED
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.SERVICE_UNAVAILABLE and after is not None):
        trouble = Trouble.PASSING
    return FailedTryError(str(status), BUSY_HINT, trouble=trouble, retry_after_seconds=after)


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
        raise FailedTryError("a body in an encoding that was not asked for", CUT_HINT, error_type=UnreadablePageError)
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
