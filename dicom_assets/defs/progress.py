"""Where a long run is, in words, at a human pace."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from dicom_assets.adapters.extract import HourRead
from dicom_assets.core.change_feed import HOUR, Window

PACE_SECONDS = 20
"""Between two lines, at least: a run of seconds says nothing, a run of hours says a line now and then."""


@dataclass
class Progress:
    """Tells every now and then how many hours of a window were read, how fast, and how long the rest will take."""

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
        now = self.clock()
        if now - self._told < PACE_SECONDS:
            return
        self._told = now
        seconds, total = now - self._started, -((self.window.start - self.window.end) // HOUR)
        left = seconds / self._hours * (total - self._hours)
        self.tell(
            f"Read {self._hours:,} of {total:,} hours, {self._entries:,} entries, "
            f"{self._entries / seconds:,.0f} a second; about {timedelta(seconds=round(left))} left."
        )
