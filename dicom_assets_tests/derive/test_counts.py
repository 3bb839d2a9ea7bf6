from datetime import timedelta

import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.errors import ServiceUnreachableError
from dicom_assets.core.tables.change_feed import HOUR, Amount, CountedWindow, Entry, Window
from dicom_assets.derive.counts import Recount, recount
from dicom_assets_tests.core.tables.rows import START, entry
from dicom_assets_tests.lakes.building import build_lake, store

DAYS = Window(START, START + timedelta(days=2, hours=3))
STORED = {10: 0, 20: 0, 30: 26, 40: 49}
"""Sequences by their hour."""


class Feed:
    """A service that has these entries, and counts what it is asked."""

    def __init__(self, hours: dict[int, int], down_from: int = 99) -> None:
        self.hours, self.down_from = hours, down_from
        self.counted: list[Window] = []
        self.listed: list[Window] = []

    def within(self, window: Window) -> list[int]:
        return [sequence for sequence, hour in self.hours.items() if window.start <= START + hour * HOUR < window.end]

    def compare_count(self, entries: int, window: Window) -> CountedWindow:
        self.counted.append(window)
        if len(self.counted) > self.down_from:
            raise ServiceUnreachableError("nobody answers")
        count = len(self.within(window))
        if count == entries:
            return CountedWindow(Amount.EQUAL)
        return CountedWindow(Amount.MORE if count > entries else Amount.FEWER)

    def fetch_pages(self, window: Window, *, include_metadata: bool):
        assert not include_metadata
        self.listed.append(window)
        for sequence in self.within(window):
            yield [Entry(sequence=sequence, action="Create", state="Current", timestamp="")]


@pytest.fixture
def table(tmp_path):
    lake = build_lake(tmp_path)
    hours = [(sequence, START + hour * HOUR) for sequence, hour in STORED.items()]
    store(lake, *(entry(sequence, timestamp=at, windowStart=at) for sequence, at in hours), table=CHANGE_FEED)
    return lake.open(CHANGE_FEED)


READ = {START + hour * HOUR: count for hour, count in {0: 2, 26: 1, 49: 1}.items()}


def test_days_are_counted_one_by_one_and_nothing_is_listed_where_counts_agree(table):
    feed = Feed(STORED)
    assert recount(feed, table, DAYS, READ) == Recount(stored=4)
    assert [window.end - window.start for window in feed.counted] == [24 * HOUR, 24 * HOUR, 3 * HOUR]
    assert feed.listed == []


def test_only_the_day_that_differs_is_listed(table):
    feed = Feed(STORED | {31: 27})
    assert recount(feed, table, DAYS, READ) == Recount(stored=4, missing=(31,))
    assert feed.listed == feed.counted[1:2]


def test_entry_that_the_service_does_not_know_has_vanished(table):
    assert recount(Feed({10: 0, 30: 26, 40: 49}), table, DAYS, READ) == Recount(stored=4, vanished=(20,))


def test_entry_that_was_read_and_is_not_stored_is_lost_whatever_the_service_says(table):
    assert recount(Feed(STORED, down_from=0), table, DAYS, READ | {START + HOUR: 2}) == Recount(
        stored=4, lost=2, error="nobody answers"
    )


def test_service_that_is_down_is_asked_once(table):
    feed = Feed(STORED, down_from=1)
    assert recount(feed, table, DAYS, READ).error == "nobody answers"
    assert len(feed.counted) == 2
