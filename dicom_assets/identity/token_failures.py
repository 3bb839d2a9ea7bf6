"""Failed token requests: transient failures, distinguished from failures that last until a person acts.

azure-identity reports nearly every failure as a failed sign-in, and a chain of credentials drops the errors of its
members. So `token_transport` records the answers themselves. The errors are read only where no answer explains the
failure.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from dicom_assets.network.retries import RetryableError, parse_retry_after

TRANSIENT_CODES = frozenset(
    {
        "AADSTS40010",  # OAuth2IdPRetryableServerError
        "AADSTS50033",  # RetryableError
        "AADSTS50087",  # SasRetryableError, where a person signs in
        "AADSTS90006",  # ExternalServerRetryableError
        "AADSTS90012",  # RequestTimeout
        "AADSTS90024",  # RequestBudgetExceededError: "a transient error has occurred"
        "AADSTS90033",  # MsodsServiceUnavailable
        "AADSTS90055",  # TenantThrottlingError
        "AADSTS90090",  # GraphRetryableError
        "AADSTS90091",  # GraphServiceUnreachable
    }
)
"""Codes of Microsoft Entra for failures that pass by themselves. Source: "Microsoft Entra authentication and
authorization error codes", entries that are called retryable, transient, unavailable, timed out or throttled.

Left out on purpose: 50196 (a client loop: more requests prolong it), 90036 and 90092 (called not retryable), 50053 and
50088 (limits of a person's sign-in), 800xx (passwords checked on premises), 50173 and 700082 (a sign-in that expired).
"""

_TRANSIENT_WORDS = frozenset({"temporarily_unavailable", "server_error"})
"""Values of `error` in an OAuth 2.0 answer that mean a transient failure."""
_TRANSIENT_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS})
"""Status codes below 500 of a transient failure. A virtual machine's metadata service answers 410 while it is updated,
for 70 seconds at most."""
_METADATA_PATH = "/metadata/identity/oauth2/token"
_CODE = re.compile(r"\bAADSTS\d+\b")
_SILENCE_IN_WORDS = re.compile(
    # First alternative: the metadata service in a chain gave no answer (else its answer follows the text). The others
    # are texts that the Azure CLI prints.
    r"no response from the IMDS endpoint\.(?!\s*Token request error)"
    r"|Max retries exceeded|Connection aborted|Failed to establish a new connection"
)


class TransientError(RetryableError):
    """Failure of a token request that passes by itself; of an answer's body its text holds a code at most."""

    def __init__(self, reason: str, is_answer: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason, retry_after_seconds)
        self.is_answer = is_answer
        """True if there was an answer, and not silence."""


@dataclass
class Record:
    """Results of the HTTP requests that one token request sent."""

    transients: list[TransientError] = field(default_factory=list)
    is_in_azure: bool = False
    """True if the metadata service of a virtual machine in Azure answered."""


_record: ContextVar[Record | None] = ContextVar("_record", default=None)


@contextmanager
def recording() -> Iterator[Record]:
    """Open a record that `note_answer` and `note_silence` fill in this thread until the block ends."""
    record = Record()
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


def note_silence(error: BaseException) -> None:
    """Record that a request got no answer."""
    if (record := _record.get()) is not None:
        record.transients.append(_silence(error))


def note_answer(url: str, status: int, text: str, headers: Mapping[str, str]) -> TransientError | None:
    """Record an answer; return its transient failure, or None.

    Args:
        url: URL of the request.
        status: status code of the answer.
        text: body of the answer.
        headers: headers of the answer, looked up case-insensitively.
    """
    body = _parse_object(text)
    is_metadata = url.partition("?")[0].endswith(_METADATA_PATH)
    transient = _judge(status, body, headers, is_metadata=is_metadata)
    if (record := _record.get()) is not None:
        # Metadata services of other clouds have this address too, but do not answer JSON at this path. A container
        # platform's proxy may answer 403 in place of a metadata service.
        record.is_in_azure |= is_metadata and body is not None and status != HTTPStatus.FORBIDDEN
        if transient is not None:
            record.transients.append(transient)
    return transient


def find_transient(error: BaseException, record: Record) -> TransientError | None:
    """Return the transient failure that explains a failed token request; None if a person has to act.

    Args:
        error: error that the credential raised.
        record: record of the token request.
    """
    if record.transients:
        longest = max((each.retry_after_seconds or 0.0 for each in record.transients), default=0.0)
        last = record.transients[-1]
        return TransientError(str(last), last.is_answer, longest or None)
    text = str(error)
    for cause in _causes(error):
        if (transient := _judge_cause(cause)) is not None:
            return transient
    if code := next((code for code in _CODE.findall(text) if code in TRANSIENT_CODES), None):
        return _answered(code)
    if _SILENCE_IN_WORDS.search(text):
        return _silence(error)
    return None


def find_code(error: BaseException) -> str | None:
    """Return the code of Microsoft Entra in an error's text; None where there is none."""
    code = _CODE.search(str(error))
    return code[0] if code else None


def _judge(
    status: int, body: Mapping[str, Any] | None, headers: Mapping[str, str], *, is_metadata: bool
) -> TransientError | None:
    if status < HTTPStatus.BAD_REQUEST:
        return None
    content = body or {}
    codes = {f"AADSTS{number}" for number in content.get("error_codes") or () if isinstance(number, int)}
    codes.update(_CODE.findall(str(content.get("error_description", ""))))
    code = min(codes & TRANSIENT_CODES, default=None)
    # A metadata service may also answer 404 while it is updated.
    may_be_updated = is_metadata and status == HTTPStatus.NOT_FOUND and body is not None
    if code or may_be_updated or _is_transient_status(status) or content.get("error") in _TRANSIENT_WORDS:
        return _answered(f"{status}, {code}" if code else str(status), parse_retry_after(headers, time.time))
    return None


def _judge_cause(cause: BaseException) -> TransientError | None:
    from azure.core.exceptions import DecodeError, ServiceRequestError, ServiceResponseError

    if isinstance(
        cause,
        ServiceRequestError | ServiceResponseError | ConnectionError | TimeoutError | subprocess.TimeoutExpired,
    ):
        return _silence(cause)
    if isinstance(cause, json.JSONDecodeError | DecodeError):
        return _answered("something else than JSON")
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(status, int) and _is_transient_status(status):
        return _answered(str(status), parse_retry_after(getattr(response, "headers", None) or {}, time.time))
    return None


def _is_transient_status(status: int) -> bool:
    return status in _TRANSIENT_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _answered(what: str, retry_after_seconds: float | None = None) -> TransientError:
    return TransientError(f"whoever hands them out answered {what}", True, retry_after_seconds)


def _silence(error: BaseException) -> TransientError:
    return TransientError(f"nobody who hands them out could be reached ({type(error).__name__})", False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, and each error that led to it, once."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        behind = (cause.__cause__, None if cause.__suppress_context__ else cause.__context__)
        waiting += [each for each in behind if each is not None]


def _parse_object(text: str) -> Mapping[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
