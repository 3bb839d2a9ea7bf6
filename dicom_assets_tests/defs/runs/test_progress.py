import threading
import time
from collections import Counter
from datetime import UTC, datetime

from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.runs.progress import PACE_SECONDS, Progress, Writing
from dicom_assets.derive.extract import HourRead

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Seconds, set by the test."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def read(hour: Window, pages: int, reached: datetime | None = None) -> HourRead:
    """An hour of which so many pages of 200 entries were read: all pages, or the pages up to a time."""
    counts = Counter(Create=200 * pages), Counter(Current=200 * pages), pages
    return HourRead(hour, *counts, reached=reached, is_complete=reached is None)


def read_hours(count: int, seconds_each: float) -> list[str]:
    """What is told while `count` hours of 1,000 entries are read, one after the other."""
    told: list[str] = []
    clock = Clock()
    window = Window(START, START + count * HOUR)
    progress = Progress(window, told.append, clock)
    for hour in window.hours():
        clock.now += seconds_each
        progress.advance(read(hour, 5))
    return told


def test_a_short_run_tells_nothing():
    assert read_hours(19, 1) == []


def test_a_long_run_tells_where_it_is_how_fast_and_how_long_it_will_take():
    told = read_hours(8760, 0.0625)
    assert told[0] == "Read 320 of 8,760 hours, 320,000 entries, 16,000 a second; about 0:08:48 left."
    assert told[-1] == "Read 8,640 of 8,760 hours, 8,640,000 entries, 16,000 a second; about 0:00:08 left."
    assert len(told) == 8760 * 0.0625 // PACE_SECONDS


def read_huge_hour(hours: int) -> list[str]:
    """What is told while the last of some hours is read, 6,400 pages in 100 seconds; those before held nothing."""
    told: list[str] = []
    clock = Clock()
    window = Window(START, START + hours * HOUR)
    progress = Progress(window, told.append, clock)
    *before, huge = window.hours()
    for hour in before:
        progress.advance(read(hour, 0))
    for page in range(1, 6401):
        clock.now += 1 / 64
        progress.advance(read(huge, page, huge.start + HOUR * (page / 6400)))
    progress.advance(read(huge, 6400))
    return told


def test_a_huge_hour_tells_where_it_is_before_it_ends():
    told = read_huge_hour(1)
    assert told[0] == "Read 1,280 pages of the hour, 256,000 entries, 12,800 a second; about 0:01:20 left."
    assert len(told) == 100 // PACE_SECONDS


def test_a_huge_hour_of_several_is_told_beside_those_before_it():
    told = read_huge_hour(3)
    place = "2 of 3 hours and 1,280 pages of the next"
    assert told[0] == f"Read {place}, 256,000 entries, 12,800 a second; about 0:00:07 left."


def test_time_left_is_not_told_where_nothing_is_known_of_it():
    told: list[str] = []
    clock = Clock()
    progress = Progress(Window(START, START + HOUR), told.append, clock)
    clock.now += 25
    progress.advance(read(Window(START, START + HOUR), 10, START))
    assert told == ["Read 10 pages of the hour, 2,000 entries, 80 a second."]


def test_a_table_that_takes_long_to_write_is_told_until_it_is_written():
    told: list[str] = []
    twice = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            twice.set()

    writing = Writing("instance", 1, tell, Clock(), pace_seconds=0.001)
    with writing.part():
        assert twice.wait(30)
    count = len(told)
    time.sleep(0.02)
    assert len(told) == count
    assert told[0] == "Still writing instance, for 0:00:00 so far."


def test_a_table_that_is_written_quickly_is_not_told():
    told: list[str] = []
    with Writing("instance", 1, told.append).part():
        pass
    assert told == []


def test_parts_of_a_table_tell_how_long_the_rest_will_take():
    clock = Clock()
    writing = Writing("instance", 4, lambda line: None, clock)
    clock.now += 30
    assert writing.describe() == "Still writing instance, part 1 of 4, for 0:00:30 so far."
    with writing.part():
        clock.now += 30
    clock.now += 20
    assert writing.describe() == "Still writing instance, part 2 of 4, for 0:01:20 so far; about 0:02:40 left."


def test_parts_that_nobody_counted_are_told_by_themselves():
    clock = Clock()
    writing = Writing("change_feed", None, lambda line: None, clock)
    with writing.part():
        clock.now += 60
    clock.now += 60
    with writing.part():
        clock.now += 30
        assert writing.describe() == "Still writing change_feed, for 0:00:30 so far."
