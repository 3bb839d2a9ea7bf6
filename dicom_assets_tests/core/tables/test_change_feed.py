import json
import mmap
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.errors import FeedEntryError
from dicom_assets.core.tables import change_feed
from dicom_assets.core.tables.change_feed import (
    Entry,
    Window,
    build_change_feed,
    parse_latest,
    parse_page,
    parse_timestamps,
)

READ_AT = datetime(2026, 3, 2, 1, 2, 3, 456, tzinfo=UTC)
MARKER = "ZZPATIENTZZ"
MEMBERS = {
    "sequence": 7,
    "partitionName": "research",
    "studyInstanceUid": "1",
    "seriesInstanceUid": "1.2",
    "sopInstanceUid": "1.2.3",
    "action": "Create",
    "timestamp": "2026-03-01T05:59:59.9999999Z",
    "state": "Current",
    "filePath": "AHDS/a.dcm",
    "metadata": {"00100010": {"vr": "PN", "Value": [{"Alphabetic": MARKER}]}},
}


def page(*entries: dict) -> bytes:
    return json.dumps(entries).encode()


def without(name: str) -> dict:
    return {member: value for member, value in MEMBERS.items() if member != name}


def row(**members: object) -> dict:
    (built,) = build_change_feed(parse_page(page(MEMBERS | members)), READ_AT).to_pylist()
    return built


# Windows


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, tzinfo=UTC)


def test_window_needs_zones_and_an_end_after_its_start():
    naive = datetime(2026, 3, 1)  # noqa: DTZ001
    for start, end in [(naive, at(1)), (at(1), naive)]:
        with pytest.raises(ValueError, match="time zone"):
            Window(start, end)
    for end in (at(1), at(0)):
        with pytest.raises(ValueError, match="must end after its start"):
            Window(at(1), end)


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (Window(at(5), at(6)), "2026-03-01 05:00–06:00Z"),
        (Window(at(0), at(0) + timedelta(days=1)), "2026-03-01 00:00–00:00Z"),
        (Window(at(0), at(1) + timedelta(days=1)), "2026-03-01 00:00–2026-03-02 01:00Z"),
        (
            Window(*(at(hour).astimezone(timezone(timedelta(hours=2))) for hour in (5, 6))),
            "2026-03-01 05:00–06:00Z",
        ),
    ],
)
def test_window_reads_as_utc(window, text):
    assert str(window) == text


def test_hours_of_a_window_are_cut_at_its_ends():
    assert list(Window(at(1, 30), at(3, 15)).hours()) == [
        Window(at(1, 30), at(2)),
        Window(at(2), at(3)),
        Window(at(3), at(3, 15)),
    ]
    assert list(Window(at(1), at(2)).hours()) == [Window(at(1), at(2))]
    half = timezone(timedelta(hours=5, minutes=30))
    assert list(Window(at(1).astimezone(half), at(3).astimezone(half)).hours()) == [
        Window(at(1), at(2)),
        Window(at(2), at(3)),
    ]


# Pages


def test_page_of_entries_in_order_with_metadata_byte_for_byte():
    metadata = b'{ "00080060" : {"vr":"CS","Value":["\xc3\x9c\\u00e9"]} }'
    content = page(MEMBERS, MEMBERS | {"sequence": 8}).replace(json.dumps(MEMBERS["metadata"]).encode(), metadata)
    entries = parse_page(content)
    assert [entry.sequence for entry in entries] == [7, 8]
    assert {bytes(entry.metadata) for entry in entries} == {metadata}
    assert parse_page(b"[]") == []


@pytest.mark.parametrize("name", ["sequence", "action", "state", "timestamp"])
def test_entry_without_a_required_member_is_no_page(name):
    with pytest.raises(msgspec.DecodeError, match=f"missing required field `{name}`"):
        parse_page(page(without(name)))


@pytest.mark.parametrize("sequence", [-(2**63), 0, 2**63 - 1])
def test_sequences_have_64_bits(sequence):
    assert row(sequence=sequence)["sequence"] == sequence


@pytest.mark.parametrize("sequence", [2**63, 2**64, 10**30, -(2**63) - 1, 1.5, "1", None, True])
def test_sequence_that_is_no_64_bit_number_is_no_page(sequence):
    with pytest.raises(msgspec.DecodeError, match="sequence"):
        parse_page(page(MEMBERS | {"sequence": sequence}))


@pytest.mark.parametrize(
    "content",
    [
        page(MEMBERS)[:-9],
        page(MEMBERS).replace(MARKER.encode(), MARKER.encode() + b"\xff"),
        page(MEMBERS | {"timestamp": 5}),
        page(MEMBERS | {"studyInstanceUid": [MARKER]}),
        b'{"error": "' + MARKER.encode() + b'"}',
        b'["' + MARKER.encode() + b'"]',
        b"null",
        b"",
        b"\xff\xfe",
    ],
)
def test_content_that_is_no_page_raises_without_a_value_of_it(content):
    with pytest.raises(msgspec.DecodeError) as caught:
        parse_page(content)
    assert MARKER not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_page_of_two_gigabytes_is_read_like_any_other():
    with mmap.mmap(-1, 2**31) as content, pytest.raises(msgspec.DecodeError):  # zeros, which take no memory
        parse_page(content)


def test_invalid_utf_8_is_told():
    with pytest.raises(msgspec.DecodeError, match=r"^invalid UTF-8$"):
        parse_page(b'["\xff"]')


def test_latest_is_an_entry_or_none():
    entry = parse_latest(json.dumps(MEMBERS).encode())
    assert entry is not None
    assert entry.sequence == 7
    assert parse_latest(b"null") is parse_latest(b"") is parse_latest(b" \n") is None
    with pytest.raises(msgspec.DecodeError):
        parse_latest(b"[]")


# Rows


def test_entry_becomes_a_row_verbatim():
    assert row() == {
        "partitionName": "research",
        "studyInstanceUid": "1",
        "seriesInstanceUid": "1.2",
        "sopInstanceUid": "1.2.3",
        "sequence": 7,
        "timestamp": datetime(2026, 3, 1, 5, 59, 59, 999_999, tzinfo=UTC),
        "action": "Create",
        "state": "Current",
        "filePath": "AHDS/a.dcm",
        "metadata": json.dumps(MEMBERS["metadata"]),
        "windowStart": at(5),
        "ingestedAt": READ_AT,
    }


def test_metadata_that_is_more_than_an_array_of_text_can_hold_is_in_several(monkeypatch):
    entries = parse_page(page(*(MEMBERS | {"sequence": number} for number in range(5))))
    whole = build_change_feed(entries, READ_AT)
    monkeypatch.setattr(change_feed, "_TEXT_BYTES", 2 * len(bytes(entries[0].metadata)))
    parts = build_change_feed(entries, READ_AT)
    assert parts.equals(whole)
    assert parts["metadata"].num_chunks == 3


def test_no_entries_are_a_table_without_rows():
    table = build_change_feed([], READ_AT)
    assert len(table) == 0
    assert table.schema.equals(CHANGE_FEED.schema, check_metadata=True)


UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")


@pytest.mark.parametrize("padding", [" ", "\0", "   ", " \0\0 "])
def test_padding_is_no_part_of_a_key_or_of_any_text_but_the_metadata(padding):
    names = ("partitionName", *UIDS, "action", "state", "filePath")
    built = row(**{name: MEMBERS[name] + padding for name in names}, metadata={"00100020": {"Value": ["A" + padding]}})
    assert {name: built[name] for name in names} == {name: MEMBERS[name] for name in names}
    assert json.loads(built["metadata"]) == {"00100020": {"Value": ["A" + padding]}}


def test_blank_before_or_within_a_uid_is_part_of_it():
    assert row(sopInstanceUid=" 1 2 ")["sopInstanceUid"] == " 1 2"


@pytest.mark.parametrize("name", UIDS)
@pytest.mark.parametrize("padding", [" ", "\0", " \0 "])
def test_uid_of_padding_alone_is_none(name, padding):
    with pytest.raises(FeedEntryError, match=f"Entry 7 of the change feed has no {name}"):
        row(**{name: padding})


def test_path_of_padding_alone_is_none():
    assert row(filePath=" \0")["filePath"] is None


@pytest.mark.parametrize("given", [{}, {"partitionName": None}, {"partitionName": ""}])
def test_missing_partition_is_the_default_one(given):
    (built,) = build_change_feed(parse_page(page(without("partitionName") | given)), READ_AT).to_pylist()
    assert built["partitionName"] == "Microsoft.Default"


def test_omitted_members_are_null():
    entry = {name: value for name, value in MEMBERS.items() if name not in ("filePath", "metadata")}
    (built,) = build_change_feed(parse_page(page(entry | {"unknown": 1})), READ_AT).to_pylist()
    assert built["filePath"] is None
    assert built["metadata"] is None


@pytest.mark.parametrize(("metadata", "text"), [(None, None), ([], "[]"), ("x", '"x"'), (7, "7"), ({}, "{}")])
def test_metadata_is_kept_whatever_it_is(metadata, text):
    assert row(metadata=metadata)["metadata"] == text


@pytest.mark.parametrize("name", ["studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"])
@pytest.mark.parametrize("given", ["absent", None, ""])
def test_missing_uid_names_the_column_and_the_sequence_and_no_value(name, given):
    bad = (without(name) if given == "absent" else MEMBERS | {name: given}) | {"sequence": 2**53 + 1}
    with pytest.raises(FeedEntryError) as caught:
        build_change_feed(parse_page(page(MEMBERS, bad)), READ_AT)
    message = str(caught.value)
    assert message.startswith(f"Entry 9007199254740993 of the change feed has no {name}")
    assert "materialise the window again" in message
    assert MARKER not in message


# Timestamps


def entry(timestamp: str, sequence: int = 7) -> Entry:
    return Entry(sequence, "Create", "Current", timestamp)


@pytest.mark.parametrize("digits", range(10))
def test_fraction_is_cut_after_its_sixth_digit(digits):
    text = "2026-03-01T05:00:09" + ("." + "9" * digits if digits else "") + "Z"
    (time,) = parse_timestamps([entry(text)]).to_pylist()
    assert time == at(5).replace(second=9, microsecond=int(("9" * min(digits, 6)).ljust(6, "0")))


@pytest.mark.parametrize("offset", ["Z", "+00:00", "-00:00", "+01:00", "-08:00", "+05:30", "+0530"])
def test_offset_is_taken_into_account(offset):
    text = f"2026-03-01T05:00:09.1234567{offset}"
    (time,) = parse_timestamps([entry(text)]).to_pylist()
    assert time == datetime.fromisoformat(text.replace("4567", "456"))


def test_hour_of_a_change_is_counted_in_utc():
    assert row(timestamp="2026-03-01T00:15:00+05:30")["windowStart"] == datetime(2026, 2, 28, 18, tzinfo=UTC)


@pytest.mark.parametrize("timestamp", ["2026-03-01T05:00:00", "2026-03-01", "", "soon", "2026-02-30T00:00:00Z"])
@pytest.mark.parametrize("place", [0, 2])
def test_timestamp_that_is_none_names_its_sequence(timestamp, place):
    entries = [entry("2026-03-01T05:00:00Z", sequence) for sequence in (1, 2)]
    entries.insert(place, entry(timestamp, 2**62))
    with pytest.raises(FeedEntryError, match=f"^Entry {2**62} of the change feed has a timestamp that is not ISO 8601"):
        parse_timestamps(entries)
