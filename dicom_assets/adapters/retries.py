"""When a request that failed is worth sending again, and how long to wait before."""

import random  # noqa: TID251 - waits that differ, of which nothing else depends
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
    """How often, and how long apart, a request is sent that may succeed another time."""

    tries: int = 8
    """Requests in all, the first included."""
    first_wait_seconds: float = 0.5
    """Upper bound of the first wait; each further bound is twice the one before. The wait itself is random below it."""
    longest_wait_seconds: float = 30
    longest_retry_after_seconds: float = 60
    """Where the service asks for more (`Retry-After`), this much of it is waited."""

    def retrying(
        self,
        before_sleep: "Callable[[tenacity.RetryCallState], None]",
        sleep: Callable[[float], None] | None = None,
    ) -> "tenacity.Retrying":
        """Calls again whatever raises WorthAnotherTryError; after the last try that error rises.

        Args:
            before_sleep: told of each try that failed, but for the last.
            sleep: waits so many seconds, where that is not to be done as usual.
        """
        import tenacity  # not before a request is made: settings and definitions have a policy, and send nothing

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(WorthAnotherTryError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=self.wait_seconds,
            sleep=sleep or tenacity.nap.sleep,
            before_sleep=before_sleep,
            reraise=True,
        )

    def wait_seconds(self, state: "tenacity.RetryCallState") -> float:
        """How long to wait before the next try: as long as the service asks for, and longer each time."""
        error = state.outcome.exception() if state.outcome else None
        return self.wait_after(state.attempt_number, getattr(error, "retry_after_seconds", None))

    def wait_after(self, tries: int, retry_after_seconds: float | None = None) -> float:
        """Return the seconds to wait after so many failed tries, the last of which asked for `retry_after_seconds`."""
        # On top of it, so that requests that were turned away together do not come back together, and that a service
        # that asks for a second each time, as many do, is not given up after as few seconds as there are tries.
        bound = min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (tries - 1))
        asked = min(retry_after_seconds or 0.0, self.longest_retry_after_seconds)
        return asked + random.uniform(0, bound)  # noqa: S311  # no secret depends on it

    def bounded(self, longest_wait_seconds: float) -> "RetryPolicy":
        """Return the policy with no longer waits than that, where the service asks for none."""
        return replace(self, longest_wait_seconds=min(self.longest_wait_seconds, longest_wait_seconds))


class WorthAnotherTryError(Exception):
    """What went wrong this time, in words that hold nothing of the body."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


def is_worth_another_try(response: "httpx.Response") -> bool:
    """Whether the answer may be another one next time: 408, 429, or an error of the server."""
    return response.status_code in _WORTH_ANOTHER_TRY or response.is_server_error


def parse_retry_after(response: "httpx.Response", clock: Callable[[], float]) -> float | None:
    """What `Retry-After` asks for in seconds, given as such or as a date; None where it is absent or neither.

    Args:
        response: the answer.
        clock: gives seconds since 1970.
    """
    return read_retry_after(response.headers, clock)


def read_retry_after(headers: Mapping[str, str], clock: Callable[[], float]) -> float | None:
    """Return what `Retry-After` among an answer's headers asks for, as `parse_retry_after` does."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock())
    return None
