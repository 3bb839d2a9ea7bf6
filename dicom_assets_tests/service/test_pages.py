"""Pages that the service does not give out as a whole: broken entries, heavy pages, bodies without end."""

import gzip
import json
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest

from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, UnreadablePageError
from dicom_assets.core.memory import DEFAULT_MEGABYTES, LEAST_MEGABYTES, MemoryLimit
from dicom_assets.core.tables.change_feed import Entry, Window
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service.client import DicomService
from dicom_assets_tests.processes import PATIENCE_SECONDS
from dicom_assets_tests.service.feed_server import START, WINDOW, Answer, FeedServer, Request, entry

QUICK = RetryPolicy(first_wait_seconds=0, longest_wait_seconds=0, longest_retry_after_seconds=0)
WARNING = "no usable metadata"
"""Words of the warning that names entries without usable metadata."""
FAULTS: dict[str, Answer | bytes] = {
    "500": Answer(500),
    "502 in HTML": Answer(502, b"<html>", {"Content-Type": "text/html"}),
    "503": Answer(503),
    "400": Answer(400, b"the value is not valid"),
    "broken connection": Answer(body=b"[" * 100, cut=20),
    "another shape": Answer(body=b'{"error": 1}'),
    "surrogate": rb'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe\ud83d"}]}}',
    "low surrogate": rb'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "\udc00Doe and others"}]}}',
    "no UTF-8": b'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "M\xfcller"}]}}',
    "nested": b'{"00081140": {"vr": "SQ", "Value": [' * 400 + b"{}" + b"]}}" * 400,
    "cut": b'{"00100010": {"vr": "PN"',
    "nothing": b"",
    "no number": b'{"00200013": {"vr": "IS", "Value": [NaN]}}',
}


def connect(server: FeedServer, **options) -> DicomService:
    return DicomService(server.url, **({"retry": QUICK, "timeout": 60} | options))


def read(service: DicomService, window: Window = WINDOW) -> list[Entry]:
    return [each for page in service.fetch_pages(window) for each in page]


def sequences(entries: list[Entry]) -> list[int]:
    return [each.sequence for each in entries]


def without_metadata(entries: list[Entry]) -> list[int]:
    return [each.sequence for each in entries if not bytes(each.metadata)]


def expected(server: FeedServer) -> list[int]:
    return [each["sequence"] for each in server.entries]


def fill(server: FeedServer, count: int) -> None:
    server.entries = [entry(number) for number in range(count)]


def ask_with_metadata(server: FeedServer) -> int:
    return sum(request.params["includeMetadata"] == "true" for request in server.requests)


# Entries whose metadata cannot be had


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_broken_entry_comes_without_metadata_and_the_others_as_if_it_were_not_there(server, fault, caplog):
    fill(server, 200)
    server.broken = {77_000: fault}
    with connect(server) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == [77_000]
    kept = [json.loads(bytes(each.metadata)) for each in entries if bytes(each.metadata)]
    assert kept == [each["metadata"] for each in server.entries if each["sequence"] != 77_000]
    assert entries[77].sop_instance_uid == "1.2.3.77000"
    assert len(server.requests) <= 31
    assert "sequences 77000." in caplog.text
    assert "Doe" not in caplog.text


@pytest.mark.parametrize("batch_size", [3, 200])
@pytest.mark.parametrize("broken", [(0,), (199,), (2, 3), (0, 199), (10, 60, 110, 160), (5, 6, 7)])
@pytest.mark.parametrize("fault", ["500", "400", "surrogate"])
def test_broken_entries_anywhere_come_without_metadata_in_few_requests(server, batch_size, broken, fault):
    fill(server, 200)
    server.broken = {place * 1000: FAULTS[fault] for place in broken}
    with connect(server, batch_size=batch_size) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == sorted(server.broken)
    pages = -(-200 // batch_size) + 8  # those behind the end among them
    assert len(server.requests) <= pages + 30 * len(broken)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_hour_of_few_entries_with_a_broken_one_costs_few_requests(server, count):
    fill(server, count)
    server.broken = {(count - 1) * 1000: Answer(500)}
    with connect(server) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == [(count - 1) * 1000]
    assert len(server.requests) <= 18


@pytest.mark.parametrize(("count", "batch_size"), [(3, 200), (200, 200), (7, 3), (3, 1)])
def test_page_of_which_every_entry_is_broken_comes_without_metadata(server, count, batch_size):
    fill(server, count)
    server.broken = dict.fromkeys(expected(server), Answer(500))
    with connect(server, batch_size=batch_size) as service:
        entries = read(service)
    assert sequences(entries) == without_metadata(entries) == expected(server)
    assert len(server.requests) <= 3.5 * count + 60


def test_two_readings_give_the_same_entries(server):
    fill(server, 450)
    server.broken = {number * 1000: FAULTS["400"] for number in (3, 199, 200, 431)}
    with connect(server) as service:
        first, second = read(service), read(service)
    with connect(server, batch_size=7) as service:
        third = read(service)
    for other in (second, third):
        assert [(each.sequence, bytes(each.metadata)) for each in other] == [
            (each.sequence, bytes(each.metadata)) for each in first
        ]


def test_broken_entry_that_is_deleted_meanwhile_is_not_named(server, caplog):
    fill(server, 20)
    server.broken = {7000: Answer(500)}

    def before(request: Request) -> None:
        if len(server.requests) == 6:
            server.entries[7] |= {"state": "Deleted"}
            server.entries[7].pop("metadata", None)

    server.before = before
    with connect(server) as service:
        entries = read(service)
    assert WARNING not in caplog.text
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == [7000]
    assert entries[7].state == "Deleted"


@pytest.mark.parametrize("late", [1.5, 50.5, 76.5, 77.5, 150.5])
@pytest.mark.parametrize("moment", [3, 5, 9, 14, 17])
def test_entry_that_arrives_while_a_page_is_cut_is_neither_lost_nor_doubled(server, late, moment):
    fill(server, 190)
    server.broken = {77_000: Answer(500)}

    def before(request: Request) -> None:
        with server.lock:
            if len(server.requests) == moment:
                server.entries = sorted([*server.entries, entry(late)], key=lambda each: each["timestamp"])

    server.before = before
    with connect(server) as service:
        entries = read(service)
    assert sorted(sequences(entries)) == expected(server)
    assert without_metadata(entries) == [77_000]


@pytest.mark.parametrize("count", [1, 5])
def test_page_of_a_window_that_was_cut_is_proven(server, count):
    fill(server, count)
    server.broken = {0: Answer(500)}
    with connect(server) as service:
        read(service)
    last = server.requests[-1]
    assert (last.offset, last.limit, last.params["includeMetadata"]) == (count, 1, "false")


@pytest.mark.parametrize("metadata", [b"[]", b'"x"', b"12", b"null"])
def test_metadata_that_is_no_object_is_named_and_kept_as_it_came(server, metadata, caplog):
    fill(server, 3)
    server.broken = {1000: metadata}
    with connect(server) as service:
        entries = read(service)
    assert bytes(entries[1].metadata) == metadata
    assert len(server.requests) == 1
    assert "sequences 1000." in caplog.text


def test_entry_of_a_deleted_instance_is_not_named(server, caplog):
    fill(server, 2)
    server.entries[0] |= {"state": "Deleted"}
    server.entries[1] |= {"action": "Delete", "state": "Replaced"}
    for each in server.entries:
        del each["metadata"]
    with connect(server) as service:
        assert len(read(service)) == 2
    assert WARNING not in caplog.text


def test_warning_names_a_bounded_number_of_sequences(server, caplog):
    fill(server, 100)
    server.broken = dict.fromkeys(expected(server), b"null")
    with connect(server) as service:
        read(service)
    (record,) = caplog.records
    assert "100 entries" in record.getMessage()
    assert "and 80 more" in record.getMessage()


@pytest.mark.parametrize("member", ["sequence", "action", "timestamp"])
def test_entry_of_another_shape_is_an_error_that_says_where(server, member):
    fill(server, 9)
    server.entries[7][member] = None
    server.keeps_to_windows = False
    with connect(server) as service, pytest.raises(UnreadablePageError) as caught:
        read(service)
    for words in ("window 2026-03-01 05:00–06:00Z, offset 7", f"$[0].{member}"):
        assert words in str(caught.value)


# Faults that pass


def test_fault_that_passes_costs_no_entry_its_metadata(server):
    fill(server, 20)
    server.answers.extend([Answer(500)] * 7)
    with connect(server) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_broken", [False, True])
def test_storm_of_faults_changes_nothing(server, seed, is_broken):
    fill(server, 1500)
    server.broken = {number * 1000: Answer(500) for number in (250, 777, 778, 1499)} if is_broken else {}
    chance, lock = random.Random(seed), threading.Lock()

    def before(request: Request) -> Answer | None:
        with lock:
            if chance.random() < 0.3:
                return Answer(chance.choice([500, 503]))
        return None

    server.before = before
    with connect(server, batch_size=50, retry=replace(QUICK, tries=14)) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == sorted(server.broken)


def test_throttling_is_waited_for_and_cuts_no_page(server):
    fill(server, 20)
    server.answers.extend([Answer(503, headers={"Retry-After": "0"}), Answer(429)] * 3)
    with connect(server) as service:
        assert without_metadata(read(service)) == []
    assert {(request.offset, request.limit) for request in server.requests} == {(0, 200)}
    assert len(server.requests) == 7


def test_throttling_while_a_page_is_cut_is_waited_for(server):
    fill(server, 200)
    server.broken = {77_000: Answer(500)}
    refused = set()

    def before(request: Request) -> Answer | None:
        asked = (request.offset, request.limit, request.params["includeMetadata"])
        if asked in refused:
            return None
        refused.add(asked)
        return Answer(429, headers={"Retry-After": "0"})

    server.before = before
    with connect(server) as service:
        assert without_metadata(read(service)) == [77_000]


def test_service_that_is_down_is_asked_as_often_as_before(server):
    server.before = lambda request: Answer(500)
    with connect(server) as service, pytest.raises(ServiceUnreachableError, match=r"offset 0.*8 times"):
        read(service)
    assert len(server.requests) == 8


@pytest.mark.parametrize("moment", [5, 10, 20])
def test_service_that_breaks_down_while_a_page_is_cut_is_an_error_and_no_entry_without_metadata(server, moment):
    fill(server, 200)
    server.broken = {77_000: Answer(500)}
    server.before = lambda request: Answer(500) if len(server.requests) > moment else None
    with connect(server) as service, pytest.raises(ServiceUnreachableError):
        read(service)
    assert len(server.requests) <= moment + 30


def test_closing_the_client_ends_the_cutting_of_a_page(server):
    fill(server, 200)
    server.broken = dict.fromkeys(expected(server), Answer(500))
    day = 86_400  # longer than the test waits
    service = connect(server, retry=RetryPolicy(first_wait_seconds=day, longest_wait_seconds=day))
    failures = []

    def run() -> None:
        try:
            read(service)
        except BaseException as error:
            failures.append(type(error).__name__)

    reader = threading.Thread(target=run, daemon=True)
    reader.start()
    while not server.requests:
        time.sleep(0.001)
    service.close()
    reader.join(PATIENCE_SECONDS)
    assert failures == ["CancelledError"]


# 400, 409 and 424


@pytest.mark.parametrize("status", [400, 409, 424])
def test_refusal_that_passes_is_asked_again(server, status):
    fill(server, 5)
    server.answers.append(Answer(status))
    with connect(server) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == []


@pytest.mark.parametrize("status", [400, 409, 424])
def test_refusal_in_the_midst_that_passes_is_asked_again(server, status):
    fill(server, 9)
    failed = []

    def before(request: Request) -> Answer | None:
        if request.offset == 6 and len(failed) < 2:
            failed.append(request)
            return Answer(status)
        return None

    server.before = before
    with connect(server, batch_size=3) as service:
        assert sequences(read(service)) == expected(server)
        server.answers.append(Answer(status))
        assert service.has_more_than(8, WINDOW)


@pytest.mark.parametrize(("status", "hint"), [(400, "cancelled"), (409, "in the way"), (424, "customer-managed key")])
def test_refusal_of_what_was_accepted_before_says_what_may_be_wrong_and_may_heal(server, status, hint):
    fill(server, 9)
    server.before = lambda request: Answer(status, b"secret") if request.offset >= 3 else None
    with connect(server, batch_size=3) as service, pytest.raises(ServiceUnreachableError) as caught:
        read(service)
    assert hint in str(caught.value)
    assert "DICOM_API_VERSION" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_key_that_is_out_of_reach_costs_no_entry_its_metadata(server):
    fill(server, 9)
    server.before = lambda request: Answer(424) if request.params["includeMetadata"] == "true" else None
    with connect(server) as service, pytest.raises(ServiceUnreachableError, match="customer-managed key"):
        read(service)


def test_parameters_that_the_service_does_not_know_are_refused_soon(server):
    server.before = lambda request: Answer(400)
    with connect(server) as service:
        with pytest.raises(ServiceRefusedError, match="DICOM_API_VERSION and DICOM_BATCH_SIZE"):
            read(service)
        assert len(server.requests) == 2
        with pytest.raises(ServiceRefusedError):
            service.fetch_latest()
    assert len(server.requests) == 3


# The newest entry


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_newest_entry_that_is_broken_comes_without_metadata(server, fault, caplog):
    fill(server, 3)
    server.broken = {2000: fault}
    with connect(server) as service:
        newest = service.fetch_latest(include_metadata=True)
        assert newest is not None
        assert "sequences 2000." in caplog.text
        assert (newest.sequence, bytes(newest.metadata)) == (2000, b"")
        assert service.fetch_latest() == newest
    assert len(server.requests) <= 6


# Pages that are too heavy


@pytest.mark.parametrize("is_heavy_without_metadata", [False, True])
@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_page_that_is_too_heavy_comes_in_parts_and_later_ones_are_asked_for_so(
    server, status, is_heavy_without_metadata, caplog
):
    fill(server, 2000)

    def before(request: Request) -> Answer | None:
        is_heavy = is_heavy_without_metadata or request.params["includeMetadata"] == "true"
        return Answer(status) if request.limit > 50 and is_heavy else None

    server.before = before
    with connect(server, max_concurrent_requests=1) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == []
    failed = [request for request in server.requests if before(request)]
    assert len(failed) <= 9
    assert "DICOM_BATCH_SIZE=50" in caplog.text
    assert caplog.text.count("DICOM_BATCH_SIZE") <= 2


def test_listing_without_metadata_that_is_too_heavy_comes_in_parts(server):
    fill(server, 450)
    server.before = lambda request: Answer(504) if request.limit > 50 else None
    with connect(server) as service:
        found = [each.sequence for page in service.fetch_pages(WINDOW, include_metadata=False) for each in page]
    assert found == expected(server)


def test_page_that_takes_too_long_comes_in_parts(server):
    fill(server, 300)
    over = threading.Event()

    def before(request: Request) -> None:
        if request.limit > 50 and request.params["includeMetadata"] == "true":
            over.wait(20)

    server.before = before
    with connect(server, timeout=httpx.Timeout(20, read=0.3), max_concurrent_requests=1) as service:
        entries = read(service)
    over.set()
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == []
    assert sum(request.limit > 50 for request in server.requests) <= 5


def test_size_of_pages_grows_again(server, caplog):
    fill(server, 3000)
    server.before = lambda request: Answer(504) if request.limit > 50 and request.offset < 400 else None
    with connect(server, max_concurrent_requests=1) as service:
        assert sequences(read(service)) == expected(server)
    limits = [request.limit for request in server.requests if request.offset > 2000 and request.limit > 1]
    assert set(limits) == {200}


def test_heavy_page_with_a_broken_entry(server):
    fill(server, 600)
    server.broken = {120_000: Answer(500)}
    server.before = lambda request: Answer(504) if request.limit > 50 else None
    with connect(server) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == [120_000]


def test_broken_entry_makes_no_page_smaller(server):
    fill(server, 1000)
    server.broken = {77_000: Answer(500)}
    with connect(server, max_concurrent_requests=1) as service:
        read(service)
    assert {request.limit for request in server.requests if request.offset >= 200} == {200, 1}


# Bodies without end


def bomb(size_bytes: int, begin: bytes = b"[") -> bytes:
    deflater = zlib.compressobj(9, wbits=31)
    piece = b" " * 2**20
    parts = [deflater.compress(begin), *(deflater.compress(piece) for _ in range(size_bytes >> 20))]
    return b"".join([*parts, deflater.flush()])


GZIP = {"Content-Encoding": "gzip"}
ASKS: dict[str, Callable[[DicomService], object]] = {
    "page": read,
    "page without metadata": lambda service: list(service.fetch_pages(WINDOW, include_metadata=False)),
    "newest entry": lambda service: service.fetch_latest(),
    "newest entry with metadata": lambda service: service.fetch_latest(include_metadata=True),
    "count": lambda service: service.has_more_than(3, WINDOW),
    "comparison": lambda service: service.compare_count(3, WINDOW),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_decompression_bomb_is_an_error_that_says_so(server, ask):
    body = bomb(100 * 2**20)
    server.before = lambda request: Answer(body=body, headers=GZIP)
    with connect(server, page_bytes=20 * 2**20) as service, pytest.raises(UnreadablePageError) as caught:
        ask(service)
    for words in ("MiB", "decompression bomb", "DICOM_MAX_MEMORY_MB", "DICOM_SERVICE_URL"):
        assert words in str(caught.value)
    assert len(server.requests) <= 2


@pytest.mark.parametrize("status", [401, 404, 500])
def test_decompression_bomb_in_an_error_is_not_decoded(server, status):
    body = bomb(100 * 2**20)
    server.before = lambda request: Answer(status, body=body, headers=GZIP)
    with connect(server) as service, pytest.raises((ServiceRefusedError, ServiceUnreachableError), match=str(status)):
        service.fetch_latest()


BOMBED = """
import sys, resource
from dicom_assets.service.client import DicomService
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.core.errors import UnreadablePageError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with DicomService(sys.argv[1], retry=RetryPolicy(tries=2, first_wait_seconds=0), page_bytes=16 * 2**20) as service:
    try:
        service.fetch_latest(include_metadata=True)
    except UnreadablePageError as error:
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "deflate", "x-gzip"])
def test_memory_stays_bounded_whatever_a_body_becomes(server, encoding):
    body = bomb(1000 * 2**20)
    body = gzip.compress(body, 9) if encoding == "gzip, gzip" else body
    server.before = lambda request: Answer(body=body, headers={"Content-Encoding": encoding})
    done = subprocess.run([sys.executable, "-c", BOMBED, server.url], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_only_encodings_that_are_bounded_are_asked_for(server):
    with connect(server) as service:
        service.fetch_latest()
    assert server.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("size_bytes", [1, 2**20 - 1, 2**20, 2**20 + 1, 5 * 2**20])
@pytest.mark.parametrize("members", [1, 2])
def test_gzip_of_any_size_is_decoded_whole(server, size_bytes, members):
    text = json.dumps([entry(1) | {"metadata": {"0": "x" * size_bytes}}]).encode()
    half = len(text) // members
    body = b"".join(gzip.compress(part) for part in (text[:half], text[half:]) if part)
    server.answers.append(Answer(body=body, headers=GZIP))
    with connect(server) as service:
        (one,) = read(service)
        service.fetch_latest()
    assert len(bytes(one.metadata)) == size_bytes + 9
    assert server.connections == 1


def test_page_larger_than_memory_comes_in_parts_that_are_not(server):
    fill(server, 100)
    for each in server.entries:
        each["metadata"] = {"00081190": {"vr": "UR", "Value": ["x" * 100_000]}}
    with connect(server, page_bytes=2**20) as service:
        pages = list(service.fetch_pages(WINDOW))
    entries = [each for page in pages for each in page]
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == []
    assert max(sum(len(bytes(each.metadata)) for each in page) for page in pages) < 2 * 2**20
    assert len(server.requests) < 40


def test_entry_larger_than_memory_comes_without_metadata(server):
    fill(server, 20)
    server.entries[3]["metadata"] = {"00081190": {"vr": "UR", "Value": ["x" * 3_000_000]}}
    with connect(server, page_bytes=2**20) as service:
        entries = read(service)
    assert sequences(entries) == expected(server)
    assert without_metadata(entries) == [3000]


@pytest.mark.parametrize("megabytes", [LEAST_MEGABYTES, DEFAULT_MEGABYTES, 64_000])
def test_pages_that_arrive_at_once_have_their_place_in_memory(megabytes):
    limit = MemoryLimit(megabytes)
    assert limit.page_bytes > 20 * 2**20
    assert 8 * limit.page_bytes <= limit.work_bytes


# Entries that are asked for again


def times(server: FeedServer) -> list[tuple[int, datetime]]:
    return [(each["sequence"], datetime.fromisoformat(each["timestamp"])) for each in server.entries]


def test_entries_are_asked_for_again_one_by_one(server):
    fill(server, 50)
    with connect(server) as service:
        entries = service.fetch_entries([times(server)[40], times(server)[7]])
    assert sequences(entries) == [40_000, 7000]
    assert without_metadata(entries) == []
    assert len(server.requests) == 2
    assert {request.limit for request in server.requests} == {1}


def test_entry_that_is_still_broken_comes_without_metadata_in_few_requests(server, caplog):
    fill(server, 50)
    server.broken = {7000: Answer(500), 8000: FAULTS["surrogate"]}
    with connect(server) as service:
        entries = service.fetch_entries(times(server)[7:10])
    assert WARNING not in caplog.text
    assert sequences(entries) == [7000, 8000, 9000]
    assert without_metadata(entries) == [7000, 8000]
    assert len(server.requests) <= 7


def test_entry_is_found_among_others_of_its_time(server):
    server.entries = [entry(10) | {"sequence": number} for number in range(30)]
    server.broken = {3: Answer(500), 17: Answer(500)}
    with connect(server, batch_size=10) as service:
        (one,) = service.fetch_entries([times(server)[22]])
        assert (one.sequence, bytes(one.metadata)[:1]) == (22, b"{")
        entries = service.fetch_entries([times(server)[number] for number in (17, 3, 4)])
    assert sequences(entries) == [17, 3, 4]
    assert without_metadata(entries) == [17, 3]


def test_entry_whose_seventh_digit_is_cut_is_found(server):
    fill(server, 1)
    server.entries[0]["timestamp"] = "2026-03-01T05:00:00.1234569Z"
    with connect(server) as service:
        (one,) = service.fetch_entries([(0, START + timedelta(microseconds=123456))])
    assert one.sequence == 0


def test_entry_that_the_service_does_not_know_is_left_out(server):
    fill(server, 3)
    with connect(server) as service:
        assert service.fetch_entries([(7, START + timedelta(seconds=1)), (8, START + timedelta(minutes=1))]) == []
        assert service.fetch_entries([]) == []


def test_deleted_entry_says_so_when_it_is_asked_for_again(server):
    fill(server, 1)
    server.entries[0] |= {"state": "Deleted"}
    del server.entries[0]["metadata"]
    with connect(server) as service:
        (one,) = service.fetch_entries(times(server))
    assert (one.state, bytes(one.metadata)) == ("Deleted", b"")


def test_service_that_is_down_is_an_error_when_entries_are_asked_for_again(server):
    fill(server, 30)
    server.before = lambda request: Answer(500)
    with connect(server) as service, pytest.raises(ServiceUnreachableError):
        service.fetch_entries(times(server))
