import base64
import gzip
import json
import logging
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from functools import cache
from itertools import count, islice

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_assets.core.errors import (
    FeedMovedError,
    ServiceRefusedError,
    ServiceUnreachableError,
    UnreadablePageError,
)
from dicom_assets.core.tables.change_feed import Amount, Window
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service import answers
from dicom_assets.service import client as dicom_service
from dicom_assets.service import requests as service_requests
from dicom_assets.service.client import READINGS, DicomService
from dicom_assets.service.statistics import Statistics
from dicom_assets_tests.processes import PATIENCE_SECONDS
from dicom_assets_tests.service.feed_server import WINDOW, Answer, FeedServer, Request, entry

QUICK = RetryPolicy(tries=4, first_wait_seconds=0.001, longest_wait_seconds=0.002, longest_retry_after_seconds=0.05)
PATIENT = RetryPolicy(longest_retry_after_seconds=86_400)
A_DAY = Answer(503, headers={"Retry-After": "86400"})
"""Busy for longer than any test waits: whoever sits out the wait does not come back."""
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def connect(server: FeedServer, **options) -> DicomService:
    return DicomService(server.url, **({"retry": QUICK, "timeout": 60, "clock": NOW.timestamp} | options))


def sequences(pages) -> list[int]:
    return [each.sequence for page in pages for each in page]


def expected(server: FeedServer) -> list[int]:
    return [each["sequence"] for each in server.entries]


# What is asked for


def test_request_names_window_in_utc_and_page(server):
    plus_one = timezone(timedelta(hours=1))
    window = Window(datetime(2026, 3, 1, 6, tzinfo=plus_one), datetime(2026, 3, 1, 6, 30, 0, 500, tzinfo=plus_one))
    with connect(server, batch_size=50) as service:
        assert list(service.fetch_pages(window, include_metadata=False)) == []
    (request,) = server.requests
    assert request.path == "/v2/changefeed"
    assert request.params == {
        "startTime": "2026-03-01T05:00:00Z",
        "endTime": "2026-03-01T05:30:00.000500Z",
        "offset": "0",
        "limit": "50",
        "includeMetadata": "false",
    }
    assert "authorization" not in request.headers


def test_base_url_may_have_a_path_and_version_is_chosen(server):
    with DicomService(f"{server.url}/gateway/", api_version=3) as service:
        list(service.fetch_pages(WINDOW))
    assert server.requests[0].path == "/gateway/v3/changefeed"


def test_auth_signs_every_request(server):
    server.entries = [entry(number) for number in range(5)]
    with connect(server, batch_size=2, auth=httpx.BasicAuth("user", "pass")) as service:
        list(service.fetch_pages(WINDOW))
    signature = "Basic " + base64.b64encode(b"user:pass").decode()
    assert {request.headers.get("authorization") for request in server.requests} == {signature}


def test_metadata_arrives_byte_for_byte(server):
    text = b'{"00080016" :{"vr":"UI"},"00100010":{"vr":"PN","Value":[{"Alphabetic":"\xc3\xa9^\\u00e9"}]}}'
    plain = json.dumps([{name: value for name, value in entry(1).items() if name != "metadata"}]).encode()
    server.answers.append(Answer(body=plain.replace(b"}]", b', "metadata": ' + text + b"}]")))
    with connect(server) as service:
        ((one,),) = service.fetch_pages(WINDOW)
    assert bytes(one.metadata) == text


# Paging


@pytest.mark.parametrize("entries", [0, 1, 4, 5, 6, 9, 10, 11, 50, 53])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_every_entry_comes_once_and_in_order(server, entries, at_once):
    server.entries = [entry(number) for number in range(entries)]
    with connect(server, batch_size=5, max_concurrent_requests=at_once) as service:
        pages = list(service.fetch_pages(WINDOW))
    assert sequences(pages) == expected(server)
    assert all(pages)


def test_batch_size_one_reads_all(server):
    server.entries = [entry(number) for number in range(7)]
    with connect(server, batch_size=1) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)


def test_short_first_page_costs_one_request(server):
    server.entries = [entry(number) for number in range(4)]
    with connect(server, batch_size=5) as service:
        list(service.fetch_pages(WINDOW))
    assert server.offsets == [0]


def test_windows_end_is_proven_by_one_small_request_without_metadata(server):
    server.entries = [entry(number) for number in range(8)]
    with connect(server, batch_size=5, max_concurrent_requests=1) as service:
        list(service.fetch_pages(WINDOW))
    assert server.offsets == [0, 5, 8]
    assert server.requests[-1].limit == 1
    assert server.requests[-1].params["includeMetadata"] == "false"


@pytest.mark.parametrize("pages", [1, 2, 3, 8, 20])
def test_fewer_requests_go_behind_the_end_than_the_window_has_pages(server, pages):
    server.entries = [entry(number) for number in range(5 * pages - 1)]
    with connect(server, batch_size=5, max_concurrent_requests=8) as service:
        list(service.fetch_pages(WINDOW))
    proofs = sum(request.limit == 1 for request in server.requests)
    beyond = sum(offset >= 5 * pages for offset in server.offsets)
    assert proofs == (pages > 1)
    assert beyond < min(pages, 8)


def test_order_holds_when_later_pages_answer_first(server):
    server.entries = [entry(number) for number in range(40)]
    server.before = lambda request: time.sleep(0.03 if request.offset % 10 else 0)
    with connect(server, batch_size=5, max_concurrent_requests=8) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)


def test_body_that_comes_slowly_holds_no_other_back(server):
    server.entries = [entry(number) for number in range(15)]
    slow_began, other_came = threading.Event(), threading.Event()
    waits = []

    def wait_for_the_other() -> None:
        slow_began.set()
        waits.append(other_came.wait(10))

    def before(request: Request) -> Answer | None:
        body = server.page(request)
        if request.offset == 5:
            return Answer(body=body, halfway=wait_for_the_other)
        if request.offset == 10:
            slow_began.wait(10)
            time.sleep(0.05)  # until the client waits for the rest of the slow one
            return Answer(body=body + b" " * 2**25, halfway=other_came.set)  # more than sockets hold
        return None

    server.before = before
    with connect(server, batch_size=5) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)
    assert waits == [True]


@pytest.mark.parametrize(("least", "requests"), [(10**9, 2), (1, 1)])
def test_body_that_hardly_comes_is_asked_for_again_and_a_long_one_is_waited_for(server, monkeypatch, least, requests):
    monkeypatch.setattr(service_requests, "READS_PER_BODY", 0.1 / 60)
    monkeypatch.setattr(answers, "LEAST_BYTES_PER_SECOND", least)
    server.entries = [entry(number) for number in range(5)]
    server.answers.append(Answer(body=json.dumps(server.entries).encode(), halfway=lambda: time.sleep(0.3)))
    with connect(server) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)
    assert len(server.requests) == requests


def test_large_body_is_in_memory_once(server):
    size = 2**25
    server.answers.append(Answer(body=memoryview(b"[]" + b" " * size)))
    with connect(server) as service:
        tracemalloc.start()
        try:
            assert list(service.fetch_pages(WINDOW)) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size < peak < 1.5 * size


def test_no_more_requests_at_once_than_allowed(server):
    server.entries = [entry(number) for number in range(150)]
    server.before = lambda request: time.sleep(0.005)
    with connect(server, batch_size=5, max_concurrent_requests=3) as service:
        readers = [threading.Thread(target=lambda: list(service.fetch_pages(WINDOW))) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert server.most_at_once == 3


def test_connections_are_kept_alive(server):
    server.entries = [entry(number) for number in range(60)]
    with connect(server, batch_size=2, max_concurrent_requests=1) as service:
        list(service.fetch_pages(WINDOW))
        service.fetch_latest()
    assert len(server.requests) > 30
    assert server.connections == 1


def test_wide_window_streams_with_bounded_read_ahead(server):
    server.entries = [entry(number / 20) for number in range(50_000)]
    asked = []
    with connect(server, max_concurrent_requests=4) as service:
        number = 0
        found = 0
        for number, page in enumerate(service.fetch_pages(WINDOW, include_metadata=False), start=1):
            found += len(page)
            if number % 50 == 0:
                time.sleep(0.05)  # room for requests that should not be made
            pages = [request for request in server.requests if request.limit == 200]
            asked.append(len(pages) - number)
        assert found == 50_000
    assert max(asked[:-1]) <= 4


def test_huge_pages_are_not_read_ahead(server, monkeypatch):
    monkeypatch.setattr(dicom_service, "AHEAD_BYTES", 100_000)
    server.entries = [entry(number) for number in range(150)]
    for each in server.entries[50:]:
        each["metadata"] = {"00081190": {"vr": "UR", "Value": ["x" * 20_000]}}
    outstanding = []
    with connect(server, batch_size=5) as service:
        for number, _ in enumerate(service.fetch_pages(WINDOW), start=1):
            time.sleep(0.02)  # room for requests that should not be made
            outstanding.append(sum(request.limit == 5 for request in server.requests) - number)
    assert max(outstanding[:10]) > 4
    assert max(outstanding[-8:]) <= 1


def test_closing_the_pages_stops_requests(server):
    server.entries = [entry(number) for number in range(500)]
    with connect(server, batch_size=5, max_concurrent_requests=2) as service:
        with closing(service.fetch_pages(WINDOW)) as pages:
            for _, _page in zip(range(10), pages, strict=False):
                pass
        time.sleep(0.05)  # room for requests that should not be made
    assert len(server.requests) <= 13


def test_closing_the_pages_ends_waits_of_pages_ahead(server):
    server.entries = [entry(number) for number in range(50)]
    server.before = lambda request: A_DAY if request.offset >= 10 else None
    service = connect(server, batch_size=5, retry=PATIENT)

    def read_two() -> None:
        with service, closing(service.fetch_pages(WINDOW)) as pages:
            next(pages), next(pages)
            while not any(request.offset >= 10 for request in server.requests):
                time.sleep(0.001)

    reader = threading.Thread(target=read_two, daemon=True)
    reader.start()
    reader.join(PATIENCE_SECONDS)
    assert not reader.is_alive()


def test_closing_the_client_ends_waits(server):
    server.before = lambda request: A_DAY
    service = connect(server, retry=PATIENT)
    failures = []

    def read() -> None:
        try:
            list(service.fetch_pages(WINDOW))
        except BaseException as error:
            failures.append(type(error).__name__)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while not server.requests:
        time.sleep(0.001)
    service.close()
    reader.join(PATIENCE_SECONDS)
    assert failures == ["CancelledError"]


def test_failing_request_behind_the_end_is_no_failure(server):
    server.entries = [entry(number) for number in range(8)]
    server.before = lambda request: Answer(500) if request.offset >= 10 else None
    with connect(server, batch_size=5) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)


# A feed that grows while it is read


def grow(server: FeedServer, positions: dict[int, list[int]]) -> set[int]:
    """Before the n-th request (from 1), the entries in question turn up at their place in the feed.

    Returns:
        The sequences that must be found: those in the feed at the last proof, or at the first request where there is
        none. A request behind the window's end may arrive after the proof; what turns up then is for the next reading.
    """
    numbers = count(1)
    due: set[int] = set()

    def before(request: Request) -> None:
        with server.lock:
            number = next(numbers)
            for position in positions.get(number, []):
                server.entries = sorted([*server.entries, entry(position)], key=lambda each: each["timestamp"])
            if number == 1 or request.params["includeMetadata"] == "false":
                due.update(each["sequence"] for each in server.entries_of(request))

    server.before = before
    return due


@pytest.fixture(scope="module")
def clients(running_server) -> Iterator[Callable[[int, int], DicomService]]:
    """Clients by batch size and concurrency; a new one takes longer than a reading."""
    with ExitStack() as stack:
        yield cache(
            lambda batch_size, at_once: stack.enter_context(
                connect(running_server, batch_size=batch_size, max_concurrent_requests=at_once)
            )
        )


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 3])
def test_late_entry_anywhere_before_any_request_is_neither_lost_nor_doubled(server, clients, batch_size, at_once):
    proofs = 0
    for place in range(6):
        for number in range(1, 8):
            server.reset()
            server.entries = [entry(10 * each) for each in range(5)]
            due = grow(server, {number: [10 * place - 5 if place else 1]})
            found = sequences(clients(batch_size, at_once).fetch_pages(WINDOW))
            assert len(found) == len(set(found))
            assert due <= set(found) <= set(expected(server))
            proofs += sum(request.params["includeMetadata"] == "false" for request in server.requests)
    assert proofs > 42  # some readings were found wanting


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    present=st.sets(st.integers(0, 60), max_size=12),
    late=st.dictionaries(st.integers(1, 14), st.sets(st.integers(61, 120), max_size=4), max_size=3),
    shape=st.tuples(st.integers(2, 5), st.integers(1, 4), st.booleans()),
)
def test_late_entries_are_neither_lost_nor_doubled(server, clients, present, late, shape):
    batch_size, at_once, in_front = shape

    def place(position: int) -> int:
        return 200 - position if in_front else (position * 7) % 121  # else anywhere among what is there

    server.reset()
    server.entries = [entry(position) for position in sorted(map(place, present))]
    used: set[int] = set()
    positions = {}
    for number, places in late.items():
        positions[number] = [place(each) for each in places - used]
        used |= places
    due = grow(server, positions)
    try:
        found = sequences(clients(batch_size, at_once).fetch_pages(WINDOW))
    except FeedMovedError:
        return  # refusing is right; losing is not
    assert len(found) == len(set(found))
    assert due <= set(found) <= set(expected(server))


# Windows of very many entries


def test_offsets_stay_small_in_a_window_of_very_many_entries(server, monkeypatch):
    monkeypatch.setattr(dicom_service, "PAGES_PER_PART", 4)
    server.entries = [entry(number) for number in range(503)]
    with connect(server, batch_size=5, max_concurrent_requests=3) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)
    assert max(server.offsets) <= 5 * (4 + 3)
    assert len(server.requests) < 1.6 * len(server.entries) / 5


def test_later_parts_of_a_window_begin_with_as_many_pages_at_once_as_came_before(server, monkeypatch):
    monkeypatch.setattr(dicom_service, "PAGES_PER_PART", 4)
    server.entries = [entry(number) for number in range(60)]
    together = threading.Barrier(3)

    def before(request: Request) -> None:
        is_of_a_later_part = datetime.fromisoformat(request.params["startTime"]) > WINDOW.start
        if is_of_a_later_part and request.limit == 5 and request.offset < 15:
            together.wait(10)

    server.before = before
    with connect(server, batch_size=5, max_concurrent_requests=3, timeout=20) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)
    assert not together.broken


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    ties=st.lists(st.integers(1, 9), max_size=12),
    late=st.dictionaries(st.integers(1, 20), st.sets(st.integers(1000, 1100), max_size=3), max_size=2),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 3)),
)
def test_ties_at_the_edge_of_a_part_and_late_entries_come_once(server, clients, ties, late, shape):
    batch_size, at_once, dicom_service.PAGES_PER_PART = shape
    server.reset()
    numbers = count()
    server.entries = [
        entry(10 * second) | {"sequence": next(numbers)} for second, tied in enumerate(ties) for _ in range(tied)
    ]
    used: set[int] = set()
    positions = {}
    for number, places in sorted(late.items()):
        positions[number] = [position / 10 for position in places - used]
        used |= places
    due = grow(server, positions)
    try:
        found = sequences(clients(batch_size, at_once).fetch_pages(WINDOW))
    except FeedMovedError:
        return
    finally:
        dicom_service.PAGES_PER_PART = 50
    assert len(found) == len(set(found))
    assert due <= set(found) <= set(expected(server))


def test_missed_entry_comes_last_and_others_in_order(server):
    server.entries = [entry(10 * number) for number in range(6)]
    grow(server, {2: [5]})
    with connect(server, batch_size=3, max_concurrent_requests=1) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [0, 10_000, 20_000, 30_000, 40_000, 50_000, 5_000]


def test_feed_that_never_holds_still_is_an_error_that_names_the_window(server):
    server.entries = [entry(1000 + number) for number in range(6)]
    late = count(900, -1)
    grow(server, {number: [next(late)] for number in range(2, 200)})
    with connect(server, batch_size=3, max_concurrent_requests=1) as service:
        with pytest.raises(FeedMovedError, match=f"window 2026-03-01 05:00–06:00Z.*{READINGS} times"):
            list(service.fetch_pages(WINDOW))


def test_server_that_ignores_offsets_does_not_read_for_ever(server):
    server.entries = [entry(number) for number in range(9)]
    server.before = lambda request: Answer(body=json.dumps(server.entries[: request.limit]).encode())
    with connect(server, batch_size=3) as service, pytest.raises(FeedMovedError):
        list(service.fetch_pages(WINDOW))


def test_entry_twice_in_one_page_comes_once(server):
    server.entries = [entry(1), entry(1)]
    with connect(server) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [1000]


# Entries that are not of the window


@pytest.mark.parametrize("position", [-0.001, 3600, 7200])
def test_entry_outside_of_the_window_is_an_error_that_names_it(server, position):
    server.keeps_to_windows = False
    server.entries = [entry(1), entry(position)]
    with connect(server) as service:
        with pytest.raises(UnreadablePageError, match=f"^Sequence {round(position * 1000)} lies outside.*window 2026"):
            list(service.fetch_pages(WINDOW))
    assert len(server.requests) == 1


@pytest.mark.parametrize("position", [0, 3599.999999])
def test_entries_at_the_windows_edges_are_inside(server, position):
    server.entries = [entry(position)]
    with connect(server) as service:
        assert len(sequences(service.fetch_pages(WINDOW))) == 1


@pytest.mark.parametrize(
    "timestamp", ["2026-03-01T05:00:00Z", "2026-03-01T06:30:00.1234567+01:00", "2026-03-01T05:59:59.9999999Z"]
)
def test_timestamps_of_any_precision_and_zone_are_understood(server, timestamp):
    server.entries = [entry(1) | {"timestamp": timestamp}]
    with connect(server) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [1000]


@pytest.mark.parametrize("timestamp", ["2026-03-01T05:00:00", "yesterday", ""])
def test_timestamp_without_zone_is_an_error_that_names_the_sequence(server, timestamp):
    server.keeps_to_windows = False
    server.entries = [entry(1) | {"timestamp": timestamp}]
    with connect(server) as service, pytest.raises(UnreadablePageError, match="timestamp of sequence 1000"):
        list(service.fetch_pages(WINDOW))


# The newest entry


@pytest.mark.parametrize("present", [0, 1, 7])
@pytest.mark.parametrize("off_by", [-1, 0, 1])
def test_count_of_a_window_costs_one_small_request(server, present, off_by):
    server.entries = [entry(position + 1) for position in range(present)]
    asked = max(0, present + off_by)
    with connect(server) as client:
        counted = client.compare_count(asked, WINDOW)
    signs = {-1: Amount.FEWER, 0: Amount.EQUAL, 1: Amount.MORE}
    assert counted.amount is signs[(present > asked) - (present < asked)]
    last = counted.last.sequence if counted.last else None
    assert last == (server.entries[-1]["sequence"] if present and asked == present else None)
    (request,) = server.requests
    assert request.limit == 2
    assert request.params["includeMetadata"] == "false"


def test_latest_is_the_newest_entry(server):
    server.entries = [entry(1), entry(2)]
    with connect(server) as service:
        newest = service.fetch_latest()
    assert newest is not None
    assert newest.sequence == 2000
    assert server.requests[0].path == "/v2/changefeed/latest"
    assert server.requests[0].params == {"includeMetadata": "false"}


@pytest.mark.parametrize("answer", [Answer(body=b"null"), Answer(204)])
def test_latest_of_an_empty_feed_is_none(server, answer):
    server.answers.append(answer)
    with connect(server) as service:
        assert service.fetch_latest(include_metadata=True) is None
    assert server.requests[0].params == {"includeMetadata": "true"}


# Faults that pass

PAGE = json.dumps([entry(1)]).encode()
SECRET = "Doe^Jane"
ZIPPED = gzip.compress(PAGE)
GZIP = {"Content-Encoding": "gzip"}
PASSING = {
    "429": Answer(429, headers={"Retry-After": "0"}),
    "429 without a wait": Answer(429),
    "429 with a wait that is none": Answer(429, headers={"Retry-After": "soon"}),
    "408": Answer(408),
    "500": Answer(500),
    "502 in HTML": Answer(502, b"<html>", {"Content-Type": "text/html"}),
    "503": Answer(503, headers={"Retry-After": "0.5"}),
    "reset before the body": Answer(body=PAGE, cut=0),
    "reset in the body": Answer(body=PAGE, cut=20),
    "truncated gzip": Answer(body=ZIPPED[:-20], headers=GZIP),
    "corrupt gzip": Answer(body=ZIPPED[:15] + b"\xff\xff" + ZIPPED[17:], headers=GZIP),
    "gzip that is none": Answer(body=PAGE, headers=GZIP),
    "truncated JSON": Answer(body=PAGE[:-20]),
    "no JSON": Answer(body=b"The service is starting"),
    "no body": Answer(),
    "another shape": Answer(body=json.dumps({"entries": [], "patient": SECRET}).encode()),
    "an entry of another shape": Answer(body=json.dumps([{"sequence": SECRET}]).encode()),
    "no UTF-8": Answer(body=f'[{{"sequence": 1, "action": "{SECRET}'.encode() + b'\xff"}]'),
    "too deep": Answer(body=b'[{"metadata": ' + b"[" * 200_000),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
def test_fault_that_passes_is_asked_again(server, answer, caplog):
    server.entries = [entry(1)]
    server.answers.append(answer)
    with connect(server) as service, caplog.at_level(logging.WARNING):
        assert sequences(service.fetch_pages(WINDOW)) == [1000]
        assert service.statistics.retries == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for words in ("window 2026-03-01 05:00–06:00Z", "offset 0", "Try 2 of 4"):
        assert words in record.getMessage()
    assert SECRET not in caplog.text


def test_gzip_is_understood(server):
    server.answers.append(Answer(body=ZIPPED, headers=GZIP))
    with connect(server) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [1000]
        assert service.statistics == Statistics(pages=1, bytes=len(ZIPPED))


def test_slow_answer_is_asked_again(server):
    server.entries = [entry(1)]
    again = threading.Event()

    def before(request: Request) -> None:
        if len(server.requests) > 1:
            again.set()
        again.wait()

    server.before = before
    with connect(server, timeout=httpx.Timeout(60, read=0.3), retry=replace(QUICK, tries=100)) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [1000]
        assert service.statistics.retries >= 1


def test_fault_in_a_later_page_changes_nothing(server):
    server.entries = [entry(number) for number in range(50)]
    failed = set()

    def before(request: Request) -> Answer | None:
        with server.lock:
            if request.offset % 15 or request.offset in failed:
                return None
            failed.add(request.offset)
        return Answer(503)

    server.before = before
    with connect(server, batch_size=5) as service:
        assert sequences(service.fetch_pages(WINDOW)) == expected(server)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The waits of this thread, none of which takes time."""
    waits, wait, here = [], threading.Event.wait, threading.get_ident()

    def count(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None or threading.get_ident() != here:
            return wait(event, timeout)
        waits.append(timeout)
        return False

    monkeypatch.setattr(threading.Event, "wait", count)
    return waits


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("0", 0),
        ("3", 3),
        ("86400", 60),
        (format_datetime(NOW + timedelta(seconds=20), usegmt=True), 20),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), 60),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
    ],
)
def test_wait_that_the_service_asks_for_is_honoured_up_to_a_minute(server, asked, waited, waits):
    server.answers.append(Answer(429, headers={"Retry-After": asked}))
    with connect(server, retry=RetryPolicy()) as service:
        service.fetch_latest()
    (asked_wait,) = waits
    assert waited <= asked_wait <= waited + 0.5


def test_service_that_asks_for_little_is_waited_for_as_long_as_one_that_asks_for_nothing(server, waits, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    server.answers.extend([Answer(429, headers={"Retry-After": "1"})] * 7)
    with connect(server, retry=RetryPolicy()) as service:
        service.fetch_latest()
    assert waits == [1 + more for more in (0.5, 1, 2, 4, 8, 16, 30)]


def test_waits_grow_and_are_counted(server):
    server.answers.extend([Answer(503)] * 3)
    with connect(server, retry=RetryPolicy(first_wait_seconds=0.01, longest_wait_seconds=0.02)) as service:
        before = service.statistics
        service.fetch_latest()
        spent = service.statistics - before
    assert (spent.pages, spent.retries) == (1, 3)
    assert spent.waited_seconds > 0


def test_statistics_count_pages_and_bytes(server):
    server.entries = [entry(number) for number in range(8)]
    with connect(server, batch_size=5, max_concurrent_requests=1) as service:
        list(service.fetch_pages(WINDOW))
        statistics = service.statistics
    assert (statistics.pages, statistics.retries) == (3, 0)
    assert statistics.bytes == sum(len(server.page(request)) for request in server.requests)


# Faults that stay


@pytest.mark.parametrize("answer", [Answer(429, headers={"Retry-After": "0"}), Answer(503), Answer(body=PAGE, cut=5)])
def test_service_that_stays_busy_is_unreachable(server, answer):
    server.before = lambda request: answer
    with connect(server) as service, pytest.raises(ServiceUnreachableError) as caught:
        list(service.fetch_pages(WINDOW))
    for words in ("window 2026-03-01 05:00–06:00Z", "offset 0", "4 times", f"{server.url}/v2/changefeed"):
        assert words in str(caught.value)
    assert len(server.requests) == 4


def test_nobody_there_is_unreachable():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with DicomService(url, retry=QUICK) as service:
            with pytest.raises(ServiceUnreachableError, match=r"ConnectError.*check DICOM_SERVICE_URL") as caught:
                service.fetch_latest()
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


@pytest.mark.parametrize(
    "name", [name for name, answer in PASSING.items() if answer.status == 200 and answer.cut is None]
)
def test_page_that_stays_unreadable_names_window_and_offset_and_nothing_of_the_body(server, name):
    server.entries = [entry(number) for number in range(5)]
    server.before = lambda request: PASSING[name] if request.offset == 5 else None
    with connect(server, batch_size=5) as service, pytest.raises(UnreadablePageError) as caught:
        list(service.fetch_pages(WINDOW))
    for words in ("window 2026-03-01 05:00–06:00Z", "offset 5", "4 times"):
        assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)
    assert server.count_by_offset()[5] == 4


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "DICOM_API_VERSION and DICOM_BATCH_SIZE"),
        (401, "DICOM_TOKEN_SCOPE"),
        (403, '"DICOM Data Reader" role'),
        (404, "base URL is probably wrong"),
        (410, "DICOM_SERVICE_URL"),
        (499, "DICOM_SERVICE_URL"),
    ],
)
def test_refusal_is_final_and_says_what_to_do(server, status, hint):
    server.before = lambda request: Answer(status, f"value {SECRET} is not valid".encode())
    with connect(server) as service, pytest.raises(ServiceRefusedError) as caught:
        list(service.fetch_pages(WINDOW))
    assert str(caught.value).startswith(
        f"Change feed request failed: {status} for {server.url}/v2/changefeed "
        "(window 2026-03-01 05:00–06:00Z, offset 0)."
    )
    assert hint in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(server.requests) == (2 if status == 400 else 1)  # 400 may be about the metadata alone


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), "HTML"),
        (Answer(body=b"\n<!DOCTYPE html>", headers={"Content-Type": "text/plain"}), "HTML"),
        (Answer(302, headers={"Location": "https://login.example/?state=hidden"}), "a redirect"),
        (Answer(304), "a redirect"),
    ],
)
def test_answer_of_something_else_is_final(server, answer, told):
    server.answers.append(answer)
    with connect(server) as service, pytest.raises(UnreadablePageError) as caught:
        list(service.fetch_pages(WINDOW))
    for words in (told, "window 2026-03-01 05:00–06:00Z, offset 0", "check DICOM_SERVICE_URL"):
        assert words in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert len(server.requests) == 1


def test_failure_of_a_later_page_comes_after_the_pages_before_it(server):
    server.entries = [entry(number) for number in range(50)]
    server.before = lambda request: Answer(403) if request.offset >= 15 else None
    with connect(server, batch_size=5) as service:
        pages = service.fetch_pages(WINDOW)
        assert sequences(islice(pages, 3)) == expected(server)[:15]
        with pytest.raises(ServiceRefusedError, match="offset 15"):
            next(pages)


def test_proxies_of_the_environment_stay_out_of_this_machines_traffic(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.entries = [entry(1)]
    with connect(server) as service:
        assert sequences(service.fetch_pages(WINDOW)) == [1000]
