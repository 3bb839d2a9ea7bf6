"""The service's time: whole ticks of 100 ns since the year 1.

Source: the resolution of SQL Server's `DATETIMEOFFSET(7)`, which stores the feed's timestamps.
"""

import re
import time
from datetime import UTC, datetime, timedelta

Ticks = int
"""Units of 100 ns since 0001-01-01T00:00:00Z."""

TICKS_PER_MICROSECOND = 10
TICKS_PER_SECOND = 10_000_000

_YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
_DATE_TIME = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[T ](?P<time>\d{2}:\d{2}(:\d{2})?)(\.(?P<fraction>\d{1,7})\d*)?"
    r" ?(?P<zone>Z|[+-]\d{2}:\d{2})",
    re.ASCII,
)


def ticks_of(moment: datetime) -> Ticks:
    """Return the ticks of a time.

    Raises:
        ValueError: The time has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return (moment - _YEAR_ONE) // timedelta(microseconds=1) * TICKS_PER_MICROSECOND


_UNIX_EPOCH = ticks_of(datetime(1970, 1, 1, tzinfo=UTC))


def ticks_now() -> Ticks:
    """Return the current ticks of the system clock."""
    return _UNIX_EPOCH + time.time_ns() // 100


def format_ticks(ticks: Ticks) -> str:
    """Return ticks as ISO 8601 in UTC with exactly seven fractional digits: `2026-03-01T00:00:09.0000004Z`."""
    microseconds, tick = divmod(ticks, TICKS_PER_MICROSECOND)
    moment = _YEAR_ONE.replace(tzinfo=None) + timedelta(microseconds=microseconds)
    return f"{moment.isoformat(timespec='microseconds')}{tick}Z"


def parse_ticks(text: str) -> Ticks:
    """Parse an ISO 8601 date and time with a zone into ticks; fractional digits beyond the seventh are cut off.

    Raises:
        ValueError: The text is not a date and time, or has no zone.
    """
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a date and time with a time zone")
    fraction = int((match["fraction"] or "").ljust(7, "0"))
    return ticks_of(datetime.fromisoformat(f"{match['date']}T{match['time']}{match['zone']}")) + fraction
