"""Log lines about the progress of a long run, at intervals that suit people."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.derive.extract import HourRead

PACE_SECONDS = 20
"""Least number of seconds between two log lines, so that a short run logs nothing and a long run logs few lines."""


@dataclass
class Progress:
    """Progress of reading a window: how much was read, how fast, and an estimate of the time left.

    Within an hour the estimate takes the timestamps of the changes, as if the changes were spread evenly.
    """

    window: Window
    log: Callable[[str], None]
    """Logs a line."""
    clock: Callable[[], float]
    """Returns seconds from an arbitrary start."""
    _hours: int = 0
    _entries: int = 0
    _started: float = field(init=False)
    _logged_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._logged_at = self.clock()

    def advance(self, read: HourRead) -> None:
        """Count an hour that was read, or report an hour that is being read."""
        entries = self._entries + read.entries
        if read.is_complete:
            self._hours, self._entries = self._hours + 1, entries
            self._log(f"{self._hours:,} of {self._total:,} hours", entries, self._hours / self._total)
            return
        pages = f"{read.pages:,} pages of the hour"
        if self._total > 1:
            pages = f"{self._hours:,} of {self._total:,} hours and {read.pages:,} pages of the next"
        reached = read.reached or self.window.start
        self._log(pages, entries, (reached - self.window.start) / (self.window.end - self.window.start))

    @property
    def _total(self) -> int:
        return -((self.window.start - self.window.end) // HOUR)

    def _log(self, what: str, entries: int, share: float) -> None:
        now = self.clock()
        if now - self._logged_at < PACE_SECONDS:
            return
        self._logged_at = now
        seconds = now - self._started
        left = f"; about {_duration(seconds / share * (1 - share))} left" if share > 0 else ""
        self.log(f"Read {what}, {entries:,} entries, {entries / seconds:,.0f} a second{left}.")


@dataclass
class Writing:
    """Progress of writing a table part by part, with an estimate of the time left."""

    name: str
    """Name of the table."""
    parts: int | None
    """Number of parts; None where it is not known before the end, and each part is timed separately."""
    log: Callable[[str], None]
    """Logs a line; called in a separate thread."""
    clock: Callable[[], float] = time.monotonic
    """Returns seconds from an arbitrary start."""
    pace_seconds: float = PACE_SECONDS
    _done: int = 0
    _started: float = field(init=False)
    _done_at: float = 0
    """Seconds from the start to the end of the last written part."""

    def __post_init__(self) -> None:
        self._started = self.clock()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Log progress while a part is written in the block."""
        if self.parts is None:
            self._started = self.clock()
        ended = threading.Event()

        def log() -> None:
            while not ended.wait(self.pace_seconds):
                self.log(self.describe())

        thread = threading.Thread(target=log, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self._done += 1
        self._done_at = self.clock() - self._started

    def describe(self) -> str:
        """Return the progress as one line."""
        seconds = self.clock() - self._started
        part = f", part {self._done + 1} of {self.parts}" if self.parts and self.parts > 1 else ""
        left = ""
        if self.parts and self._done:
            left = f"; about {_duration(max(0, self._done_at / self._done * self.parts - seconds))} left"
        return f"Still writing {self.name}{part}, for {_duration(seconds)} so far{left}."


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
