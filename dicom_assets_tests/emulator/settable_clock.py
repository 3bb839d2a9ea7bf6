"""Clock for tests of the embedded service."""

import threading
from datetime import datetime, timedelta


class SettableClock:
    """A clock that stands still until it is set or advanced; safe to share between threads."""

    def __init__(self, now: datetime) -> None:
        self._lock = threading.Lock()
        self._now = self._with_zone(now)

    def __call__(self) -> datetime:
        """Return the time of the clock."""
        with self._lock:
            return self._now

    def set(self, now: datetime) -> None:
        """Set the clock to a time, earlier or later."""
        with self._lock:
            self._now = self._with_zone(now)

    def advance(self, by: timedelta) -> None:
        """Move the clock forward, or back by a negative timedelta."""
        with self._lock:
            self._now += by

    @staticmethod
    def _with_zone(moment: datetime) -> datetime:
        if moment.tzinfo is None:
            raise ValueError("a clock needs a time zone")
        return moment
