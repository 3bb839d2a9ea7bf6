"""Retry policy of HTTP requests: which failures are retried, and how long to wait before."""

import random  # noqa: TID251 - spreads waits; no result depends on it
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import sleep
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class RetryableError(Exception):
    """Failure of one try that a retry may overcome; its text holds nothing of a body."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class RetryPolicy:
    """Number of tries of a request, and the waits between them."""

    tries: int = 8
    """Requests in all, the first included."""
    first_wait_seconds: float = 0.5
    """Upper bound of the first wait; each further bound is twice the one before. A wait is random, up to its bound."""
    longest_wait_seconds: float = 30
    """Upper bound of every wait that the service does not ask for."""
    longest_retry_after_seconds: float = 60
    """Upper bound of the wait that the service asks for (`Retry-After`)."""

    def call(
        self,
        send: Callable[[], T],
        warn: Callable[[RetryableError, str], None] | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> T:
        """Return the result of `send`, called again after each RetryableError.

        Args:
            send: makes one try.
            warn: called after each failed try except the last, with a sentence about the next try; None to say nothing.
            wait: waits for a number of seconds; None for an ordinary sleep.

        Raises:
            RetryableError: the last try failed.
        """
        number = 0
        while True:
            number += 1
            try:
                return send()
            except RetryableError as error:
                if number >= self.tries:
                    raise
                seconds = self.wait_after(number, error.retry_after_seconds)
                if warn is not None:
                    warn(error, f"Try {number + 1} of {self.tries} follows in {seconds:.1f} s.")
            (wait or sleep)(seconds)

    def wait_after(self, tries: int, retry_after_seconds: float | None = None) -> float:
        """Return the seconds to wait before the next try: what the service asks for, plus a random, growing wait.

        Args:
            tries: number of failed tries so far.
            retry_after_seconds: wait that the service asked for after the last try; None where it did not ask.
        """
        # The random wait is added, for two reasons. Requests that were refused together must not return together. And
        # many services ask for one second each time: with that alone, all tries would be over within a few seconds.
        bound = min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (tries - 1))
        asked = min(retry_after_seconds or 0.0, self.longest_retry_after_seconds)
        return asked + random.uniform(0, bound)  # noqa: S311  # no secret depends on it

    def bounded(self, longest_wait_seconds: float) -> "RetryPolicy":
        """Return the policy with a smaller upper bound of the waits that the service does not ask for."""
        return replace(self, longest_wait_seconds=min(self.longest_wait_seconds, longest_wait_seconds))


def is_retryable(response: "httpx.Response") -> bool:
    """Return whether a retry may get another answer: after 408, 429, or a server error."""
    return response.status_code in _RETRYABLE or response.is_server_error


def parse_retry_after(headers: Mapping[str, str], clock: Callable[[], float]) -> float | None:
    """Return the wait in seconds that `Retry-After` asks for; None where it is absent or not readable.

    Args:
        headers: headers of an answer, looked up case-insensitively. The value may be a number of seconds or a date.
        clock: returns the time in seconds since 1970.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock())
    return None
