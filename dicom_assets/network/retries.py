"""Retry policy of HTTP requests: which failures are retried, and how long to wait before."""

import random  # noqa: TID251 - spreads waits; no result depends on it
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
    import tenacity

_WORTH_ANOTHER_TRY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


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

    def retrying(
        self,
        before_sleep: "Callable[[tenacity.RetryCallState], None]",
        sleep: Callable[[float], None] | None = None,
    ) -> "tenacity.Retrying":
        """Return a caller that retries on WorthAnotherTryError, and raises that error after the last try.

        Args:
            before_sleep: called after each failed try except the last.
            sleep: waits for a number of seconds; None for an ordinary sleep.
        """
        import tenacity  # imported late: settings and definitions have a policy and send nothing

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(WorthAnotherTryError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=self.wait_seconds,
            sleep=sleep or tenacity.nap.sleep,
            before_sleep=before_sleep,
            reraise=True,
        )

    def wait_seconds(self, state: "tenacity.RetryCallState") -> float:
        """Return the seconds to wait before the next try, as `wait_after` does."""
        error = state.outcome.exception() if state.outcome else None
        return self.wait_after(state.attempt_number, getattr(error, "retry_after_seconds", None))

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


class WorthAnotherTryError(Exception):
    """Failure of one try that a retry may overcome; its text holds nothing of a body."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


def is_worth_another_try(response: "httpx.Response") -> bool:
    """Return whether a retry may get another answer: after 408, 429, or a server error."""
    return response.status_code in _WORTH_ANOTHER_TRY or response.is_server_error


def parse_retry_after(response: "httpx.Response", clock: Callable[[], float]) -> float | None:
    """Return the wait in seconds that `Retry-After` asks for; None where it is absent or not readable.

    Args:
        response: the answer; its header may have a number of seconds or a date.
        clock: returns the time in seconds since 1970.
    """
    return read_retry_after(response.headers, clock)


def read_retry_after(headers: Mapping[str, str], clock: Callable[[], float]) -> float | None:
    """Return the wait in seconds that `Retry-After` among the headers asks for, as `parse_retry_after` does."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock())
    return None
