from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE
from dicom_assets.core.errors import FeedEntryError, ServiceUnreachableError
from dicom_assets.core.tables.change_feed import HOUR, Entry, Window
from dicom_assets.derive.derivation import Fixed
from dicom_assets.derive.extract import Extraction, HourRead
from dicom_assets.lake.files.parquet import EncodedRows, decode
from dicom_assets_tests.lakes.building import build_lake

START = datetime(2026, 3, 1, tzinfo=UTC)
CREATE, DELETE = ("Create", "Current"), ("Delete", "Deleted")


def hours(first: int, count: int = 1) -> Window:
    return Window(START + first * HOUR, START + (first + count) * HOUR)


class Feed:
    """Pages by hour: of each entry its sequence, action and state."""

    def __init__(self, pages: dict[int, list[list[tuple]]]) -> None:
        self.pages = pages
        self.asked: list[Window] = []

    def fetch_pages(self, window: Window):
        self.asked.append(window)
        for page in self.pages.get((window.start - START) // HOUR, []):
            yield [
                Entry(sequence, action, state, f"{window.start:%Y-%m-%dT%H:%M:%S}Z", "1", "1.1", f"1.1.{sequence}")
                for sequence, (action, state) in page
            ]


def break_at(feed: Feed, sequence: int) -> None:
    """The service gives no answer any more at the page that begins with this entry."""
    read = feed.fetch_pages

    def broken(window: Window):
        for page in read(window):
            if page[0].sequence == sequence:
                raise ServiceUnreachableError("no answer")
            yield page

    feed.fetch_pages = broken


def whole(given: Fixed) -> pa.Table:
    """The rows that are to be stored."""
    return decode(given.build()).rows


def run(feed: Feed, window: Window, **options) -> tuple[list[list[int]], list[HourRead]]:
    clock = iter(START + timedelta(days=1, seconds=second) for second in range(99))
    steps = list(Extraction(feed, window, lambda: next(clock), **options).steps())
    reports = [step for step in steps if isinstance(step, HourRead) and step.is_complete]
    batches = [whole(step) for step in steps if isinstance(step, Fixed)]
    for rows in batches:
        assert rows.schema.equals(CHANGE_FEED.schema)
    return [rows["sequence"].to_pylist() for rows in batches], reports


def test_every_hour_is_read_in_order_and_reported():
    feed = Feed({0: [[(1, CREATE), (2, CREATE)], [(3, DELETE)]], 2: [[(4, CREATE)]]})
    batches, reports = run(feed, hours(0, 3))
    assert batches == [[1, 2, 3, 4]]
    assert feed.asked == [hours(0), hours(1), hours(2)]
    assert reports == [
        HourRead(
            hours(0), Counter(Create=2, Delete=1), Counter(Current=2, Deleted=1), 2, 2, reports[0].named, START, True
        ),
        HourRead(hours(1), is_complete=True),
        HourRead(hours(2), Counter(Create=1), Counter(Current=1), 1, 1, reports[2].named, START + 2 * HOUR, True),
    ]
    assert [[sequence for sequence, _ in read.named] for read in reports] == [[1, 2], [], [4]]
    assert [read.entries for read in reports] == [3, 0, 1]


def test_hours_without_entries_are_one_batch_without_rows():
    assert run(Feed({}), hours(0, 2))[0] == [[]]


def test_batches_are_whole_hours():
    feed = Feed({0: [[(1, CREATE)], [(2, CREATE)]], 1: [[(3, CREATE)]], 3: [[(4, CREATE)]], 4: [[(5, CREATE)]]})
    one_row = next(iter(Extraction(feed, hours(1), lambda: START))).desired.rows.nbytes
    assert run(feed, hours(0, 5), batch_bytes=2.5 * one_row)[0] == [[1, 2, 3], [4, 5]]


def test_an_hour_larger_than_a_batch_is_written_in_parts():
    feed = Feed({0: [[(1, CREATE)], [(2, CREATE), (3, CREATE)]], 2: [[(4, CREATE)]]})
    batches, reports = run(feed, hours(0, 3), batch_bytes=1)
    assert batches == [[1], [2, 3], [4], []]
    assert [read.entries for read in reports] == [3, 0, 1]


def test_hours_before_a_large_one_are_written_with_its_first_part():
    feed = Feed({0: [[(1, CREATE)]], 1: [[(2, CREATE)], [(3, CREATE)]]})
    one_row = next(iter(Extraction(feed, hours(0), lambda: START))).desired.rows.nbytes
    assert run(feed, hours(0, 2), batch_bytes=1.5 * one_row)[0] == [[1, 2, 3], []]


def test_small_hours_share_a_batch():
    one = run(Feed({0: [[(1, CREATE)]]}), hours(0))[0]
    assert one == [[1]]
    rows = next(iter(Extraction(Feed({0: [[(1, CREATE)]]}), hours(0), lambda: START))).desired.rows
    feed = Feed({hour: [[(hour, CREATE)]] for hour in range(5)})
    assert run(feed, hours(0, 5), batch_bytes=rows.nbytes + 1)[0] == [[0, 1], [2, 3], [4]]


def test_few_rows_are_written_after_a_minute_of_reading():
    clock = iter(START + timedelta(seconds=25 * tick) for tick in range(99))
    feed = Feed({hour: [[(hour, CREATE)]] for hour in (0, 1, 3)})
    batches = Extraction(feed, hours(0, 5), lambda: next(clock))
    assert [given.desired.rows["sequence"].to_pylist() for given in batches] == [[0, 1], [3], []]


def test_hours_before_one_that_cannot_be_read_are_given_out():
    feed = Feed({0: [[(1, CREATE)]], 1: [[(2, CREATE)], [(3, CREATE)]]})
    break_at(feed, 3)
    steps = Extraction(feed, hours(0, 3), lambda: START).steps()
    batch = next(step for step in steps if isinstance(step, Fixed))
    assert batch.desired.rows["sequence"].to_pylist() == [1]
    with pytest.raises(ServiceUnreachableError):
        next(steps)


def test_time_of_reading_is_taken_before_the_hour_is_read():
    events = []

    def now() -> datetime:
        events.append("clock")
        return START + timedelta(days=len(events))

    class Told(Feed):
        def fetch_pages(self, window: Window):
            events.append("feed")
            return super().fetch_pages(window)

    (given,) = Extraction(Told({0: [[(1, CREATE)], [(2, CREATE)]]}), hours(0), now)
    assert events == ["clock", "feed"]
    assert given.desired.rows["ingestedAt"].to_pylist() == [START + timedelta(days=1)] * 2


def test_bad_entry_stops_the_reading_before_its_hour_is_given_out():
    feed = Feed({0: [[(1, CREATE)]], 1: [[(2, CREATE)]]})
    whole = feed.fetch_pages

    def broken(window: Window):
        for page in whole(window):
            yield [Entry(9, "Create", "Current", "2026-03-01T01:00:00Z")] if window == hours(1) else page

    feed.fetch_pages = broken
    steps = Extraction(feed, hours(0, 3), lambda: START, batch_bytes=1).steps()
    seen = []
    with pytest.raises(FeedEntryError, match=r"^Entry 9 "):
        seen.extend(steps)
    assert [step.desired.rows["sequence"].to_pylist() for step in seen if isinstance(step, Fixed)] == [[1], []]
    assert [step.hour for step in seen if isinstance(step, HourRead) and step.is_complete] == [hours(0)]


def test_every_page_gives_a_summary_with_the_time_that_it_reached():
    feed = Feed({0: [[(1, CREATE), (2, CREATE)], [(3, DELETE)]], 1: [[(4, CREATE)]]})
    steps = Extraction(feed, hours(0, 2), lambda: START).steps()
    reads = [step for step in steps if isinstance(step, HourRead)]
    assert [(read.hour, read.pages, read.entries, read.reached, read.is_complete) for read in reads] == [
        (hours(0), 1, 2, START, False),
        (hours(0), 2, 3, START, False),
        (hours(0), 2, 3, START, True),
        (hours(1), 1, 1, START + HOUR, False),
        (hours(1), 1, 1, START + HOUR, True),
    ]


PAGES = {0: [[(1, CREATE), (2, CREATE)], [(3, DELETE)]], 1: [[(4, CREATE)]], 3: [[(5, CREATE), (6, CREATE)]]}


@pytest.mark.parametrize("encoded_rows", [1, 2, 3, 4, 99])
def test_rows_are_the_same_however_many_are_encoded_at_a_time(encoded_rows):
    plain, read = run(Feed(PAGES), hours(0, 4))
    assert run(Feed(PAGES), hours(0, 4), encoded_rows=encoded_rows) == (plain, read)


@pytest.mark.parametrize("encoded_rows", [1, 2, 99])
def test_what_metadata_says_lies_row_beside_row(encoded_rows):
    class Described(Feed):
        def fetch_pages(self, window: Window):
            for page in super().fetch_pages(window):
                for entry in page:
                    entry.metadata = msgspec.Raw(b'{"00200013":{"Value":[%d]}}' % entry.sequence)
                yield page

    extraction = Extraction(Described(PAGES), hours(0, 4), lambda: START, INSTANCE, encoded_rows=encoded_rows)
    (given,) = extraction
    assert (
        given.desired.attributes["instanceNumber"].to_pylist()
        == whole(given)["sequence"].to_pylist()
        == [1, 2, 3, 4, 5, 6]
    )


@pytest.mark.parametrize("encoded_rows", [1, 2, 3, 99])
def test_of_an_hour_that_cannot_be_read_nothing_is_given_out_though_it_was_encoded(encoded_rows):
    feed = Feed({0: [[(1, CREATE)], [(2, CREATE)]], 1: [[(3, CREATE)], [(4, CREATE)], [(5, CREATE)]]})
    break_at(feed, 5)
    batches = iter(Extraction(feed, hours(0, 3), lambda: START, INSTANCE, encoded_rows=encoded_rows))
    given = next(batches)
    assert whole(given)["sequence"].to_pylist() == [1, 2]
    assert len(given.desired.attributes) == 2
    with pytest.raises(ServiceUnreachableError):
        next(batches)


def test_parts_of_an_hour_are_stored_as_they_were_encoded_and_again_without_a_change(tmp_path, monkeypatch):
    pages = [[(10 * page + place, CREATE) for place in range(10)] for page in range(6)]
    lake, decoded = build_lake(tmp_path), []

    def count(rows, *, decode=EncodedRows.decode):
        decoded.append(len(rows.contents))
        return decode(rows)

    monkeypatch.setattr(EncodedRows, "decode", count)
    for written in (60, 0):
        parts = Extraction(Feed({0: pages}), hours(0), lambda: START, batch_bytes=3000, encoded_rows=10)
        results = [lake.write(CHANGE_FEED, part) for part in parts]
        assert sum(result.inserted for result in results) == written
        assert len(results) > 2
        assert (sum(decoded) > 0) is (written == 0)
    assert lake.open(CHANGE_FEED).row_count == 60
