"""Where a long run is, in words, at a human pace."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dicom_assets.adapters.extract import HourRead
from dicom_assets.core.change_feed import HOUR, Window

PACE_SECONDS = 20
"""Between two lines, at least: a run of seconds says nothing, a run of hours says a line now and then."""


@dataclass
class Progress:
    """Tells every now and then how much of a window was read, how fast, and how long the rest will take.

    Within an hour the rest is judged by the times of the changes, as if they were spread evenly.
    """

    window: Window
    tell: Callable[[str], None]
    """Told a line."""
    clock: Callable[[], float]
    """Seconds, from any start."""
    _hours: int = 0
    _entries: int = 0
    _started: float = field(init=False)
    _told: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._told = self.clock()

    def advance(self, read: HourRead) -> None:
        """Counts an hour."""
        self._hours += 1
        self._entries += read.entries
        self._tell(f"{self._hours:,} of {self._total:,} hours", self._entries, self._hours / self._total)

    def advance_within(self, read: HourRead, reached: datetime) -> None:
        """Tells of an hour that is being read, up to a time."""
        pages = f"{read.pages:,} pages of the hour"
        if self._total > 1:
            pages = f"{self._hours:,} of {self._total:,} hours and {read.pages:,} pages of the next"
        share = (reached - self.window.start) / (self.window.end - self.window.start)
        self._tell(pages, self._entries + read.entries, share)

    @property
    def _total(self) -> int:
        return -((self.window.start - self.window.end) // HOUR)

    def _tell(self, what: str, entries: int, share: float) -> None:
        now = self.clock()
        if now - self._told < PACE_SECONDS:
            return
        self._told = now
        seconds = now - self._started
        left = f"; about {_duration(seconds / share * (1 - share))} left" if share > 0 else ""
        self.tell(f"Read {what}, {entries:,} entries, {entries / seconds:,.0f} a second{left}.")


@dataclass
class Writing:
    """Tells every now and then that a table is still being written, part by part, and how long that will take."""

    name: str
    """Of the table."""
    parts: int | None
    """How many; None where that shows at the end, and each counts for itself."""
    tell: Callable[[str], None]
    """Told a line, by a thread of its own."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, from any start."""
    pace_seconds: float = PACE_SECONDS
    _done: int = 0
    _started: float = field(init=False)
    _done_at: float = 0
    """Seconds from the start to the end of the last part that was written."""

    def __post_init__(self) -> None:
        self._started = self.clock()

    @contextmanager
    def part(self) -> Iterator[None]:
        """A part is written in the block."""
        if self.parts is None:
            self._started = self.clock()
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(self.pace_seconds):
                self.tell(self.describe())

        thread = threading.Thread(target=tell, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self._done += 1
        self._done_at = self.clock() - self._started

    def describe(self) -> str:
        """How it stands, in a line."""
        seconds = self.clock() - self._started
        part = f", part {self._done + 1} of {self.parts}" if self.parts and self.parts > 1 else ""
        left = ""
        if self.parts and self._done:
            left = f"; about {_duration(max(0, self._done_at / self._done * self.parts - seconds))} left"
        return f"Still writing {self.name}{part}, for {_duration(seconds)} so far{left}."


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
