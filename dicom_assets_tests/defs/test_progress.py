from collections import Counter
from datetime import UTC, datetime

from dicom_assets.adapters.extract import HourRead
from dicom_assets.core.change_feed import HOUR, Window
from dicom_assets.defs.progress import PACE_SECONDS, Progress

START = datetime(2026, 3, 1, tzinfo=UTC)


def read_hours(count: int, seconds_each: float) -> list[str]:
    """What is told while `count` hours of 1,000 entries are read, one after the other."""
    told: list[str] = []
    now = 0.0
    window = Window(START, START + count * HOUR)
    progress = Progress(window, told.append, lambda: now)
    for hour in window.hours():
        now += seconds_each
        progress.advance(HourRead(hour, Counter(Create=1000), Counter(Current=1000), 5))
    return told


def test_a_short_run_tells_nothing():
    assert read_hours(19, 1) == []


def test_a_long_run_tells_where_it_is_how_fast_and_how_long_it_will_take():
    told = read_hours(8760, 0.0625)
    assert told[0] == "Read 320 of 8,760 hours, 320,000 entries, 16,000 a second; about 0:08:48 left."
    assert told[-1] == "Read 8,640 of 8,760 hours, 8,640,000 entries, 16,000 a second; about 0:00:08 left."
    assert len(told) == 8760 * 0.0625 // PACE_SECONDS
