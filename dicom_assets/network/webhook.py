"""Delivery of alerts to a webhook: JSON by POST, over HTTPS."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from dicom_assets.core.errors import AlertError
from dicom_assets.network.retries import RetryableError, RetryPolicy, is_retryable

TIMEOUT_SECONDS = 8
RETRY = RetryPolicy(tries=3, first_wait_seconds=1, longest_wait_seconds=4, longest_retry_after_seconds=0)
"""Retry policy. Three tries of TIMEOUT_SECONDS, with the waits between them, end before Dagster's time limit for a
sensor (one minute)."""


def post_alert(url: str, body: Mapping[str, object]) -> None:
    """Deliver a body to a webhook; the URL is a secret and appears in no error or log.

    Raises:
        AlertError: the receiver refused the alert, or could not be reached by any try.
    """
    host = urlsplit(url).hostname
    try:
        RETRY.call(lambda: _post(url, body))
    except RetryableError as error:
        raise AlertError(
            f"The alert was not delivered: {error} from the webhook at {host}, {RETRY.tries} times. The receiver is "
            "down, or the network does not let this machine reach it. Nobody was notified of this failure; the next "
            "alert is tried anew."
        ) from None


def _post(url: str, body: Mapping[str, object]) -> None:
    try:
        with _silence():
            answer = httpx.post(url, json=body, timeout=TIMEOUT_SECONDS)
    except httpx.TransportError as error:
        raise RetryableError(f"no answer ({type(error).__name__})") from None
    if is_retryable(answer):
        raise RetryableError(str(answer.status_code))
    if not answer.is_success:
        raise AlertError(
            f"The alert was not delivered: {answer.status_code} from the webhook at {urlsplit(url).hostname}. It has "
            "probably been removed, or wants another form of message. Check DICOM_ALERT_WEBHOOK_URL."
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep httpx from logging this thread's requests, which it logs at the level INFO with the whole URL.

    Such logs are shown wherever the level of all loggers is set, as by Dagster's `managed_python_loggers`.
    """
    log, thread = logging.getLogger("httpx"), threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log.addFilter(is_of_others)
    try:
        yield
    finally:
        log.removeFilter(is_of_others)
