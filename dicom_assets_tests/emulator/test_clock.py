from datetime import UTC, datetime, timedelta, timezone

import pytest

from dicom_assets.emulator.clock import format_ticks, parse_ticks, ticks_now, ticks_of
from dicom_assets_tests.emulator.settable_clock import SettableClock

MOMENT = datetime(2026, 3, 1, 0, 0, 9, tzinfo=UTC)


def test_seventh_digit_survives_text_and_back():
    text = "2026-03-01T00:00:09.0000004Z"
    assert format_ticks(parse_ticks(text)) == text
    assert parse_ticks(text) == ticks_of(MOMENT) + 4


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T00:00:09Z",
        "2026-03-01 00:00:09.0Z",
        "2026-03-01T01:00:09+01:00",
        "2026-02-28T19:30:09.00000000-04:30",
        " 2026-03-01T00:00:09Z ",
    ],
)
def test_same_moment_in_other_words(text):
    assert parse_ticks(text) == ticks_of(MOMENT)


def test_seconds_may_be_missing():
    assert parse_ticks("2026-03-01T00:00Z") == ticks_of(MOMENT.replace(second=0))


@pytest.mark.parametrize("text", ["", "foo", "2026-03-01", "2026-03-01T00:00:09", "2026-13-01T00:00:09Z"])
def test_text_without_moment_or_zone_is_refused(text):
    with pytest.raises(ValueError, match=r"time zone|month"):
        parse_ticks(text)


def test_now_is_close_to_the_system_clock():
    assert abs(ticks_now() - ticks_of(datetime.now(UTC))) < 600_000_000


def test_moments_without_zone_are_refused():
    with pytest.raises(ValueError, match="zone"):
        ticks_of(datetime(2026, 3, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="zone"):
        SettableClock(datetime(2026, 3, 1))  # noqa: DTZ001


def test_settable_clock_stands_until_moved():
    clock = SettableClock(MOMENT)
    assert clock() == clock() == MOMENT
    clock.advance(timedelta(hours=-1))
    assert clock() == MOMENT - timedelta(hours=1)
    later = datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    clock.set(later)
    assert clock() == later
