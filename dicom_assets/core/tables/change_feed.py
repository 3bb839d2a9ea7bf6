"""Entries and pages of the change feed, windows of time, and the rows of the `change_feed` table.

The service keeps UIDs as they were stored, also with blanks or NULs at the end. It treats a UID with this padding and
the UID without it as one instance. The padding is not part of a UID, so all texts in the table except the metadata are
trimmed.

Source: the DICOM service's change feed, API v2 and later.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from itertools import accumulate, chain
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.elements import trim_padding
from dicom_assets.core.columns.schema import CHANGE_FEED, KEY, TIMESTAMP
from dicom_assets.core.errors import FeedEntryError

HOUR = timedelta(hours=1)
DEFAULT_PARTITION = "Microsoft.Default"
"""Name of the data partition in a service without partitions."""


@dataclass(frozen=True, order=True)
class Window:
    """Time span of the change feed: `start` inclusive, `end` exclusive, both with a time zone."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("a window's start and end need a time zone")
        if self.end <= self.start:
            raise ValueError(f"a window must end after its start, got {self.start} to {self.end}")

    def __str__(self) -> str:
        start, end = self.start.astimezone(UTC), self.end.astimezone(UTC)
        until = f"{end:%H:%M}" if end - start <= timedelta(days=1) else f"{end:%Y-%m-%d %H:%M}"
        return f"{start:%Y-%m-%d %H:%M}–{until}Z"

    @classmethod
    def of_hours(cls, start: datetime, count: int = 1) -> "Window":
        """Return the window of `count` hours from `start` on."""
        return cls(start, start + count * HOUR)

    @classmethod
    def of_moment(cls, time: datetime) -> "Window":
        """Return the shortest window that contains a time of the feed, to the microsecond."""
        return cls(time, time + timedelta(microseconds=1))

    @property
    def hour_count(self) -> int:
        """Number of whole hours in the window."""
        return (self.end - self.start) // HOUR

    def split(self, length: timedelta) -> "Iterator[Window]":
        """Yield the window in parts of this length, in order; the last part may be shorter."""
        start = self.start
        while start < self.end:
            yield Window(start, min(start + length, self.end))
            start += length

    def hours(self) -> "Iterator[Window]":
        """Yield the hours of the window in order, as windows in UTC; the window's start and end cut the outer hours."""
        start = self.start.astimezone(UTC)
        while start < self.end:
            end = min(start.replace(minute=0, second=0, microsecond=0) + HOUR, self.end.astimezone(UTC))
            yield Window(start, end)
            start = end


class Entry(msgspec.Struct, gc=False, rename="camel"):
    """Change of one SOP instance, as the feed gave it. A member that the service omits has its default."""

    sequence: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    action: str
    state: str
    timestamp: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    partition_name: str | None = None
    file_path: str | None = None
    metadata: msgspec.Raw = msgspec.Raw()
    """DICOM JSON text, byte for byte; empty if the service sent none."""


class Amount(Enum):
    """Number of a service's entries, relative to an expected number."""

    FEWER = auto()
    EQUAL = auto()
    MORE = auto()


@dataclass(frozen=True)
class CountedWindow:
    """A window's number of entries at the service, relative to an expected number."""

    amount: Amount
    last: Entry | None = None
    """The window's last entry, where the numbers are equal and not 0."""


_OBJECT = ord("{")


def has_metadata(entry: Entry) -> bool:
    """Return whether the entry has usable metadata, which is a JSON object."""
    text = memoryview(entry.metadata)
    return bool(text) and text[0] == _OBJECT


_page_decoder = msgspec.json.Decoder(list[Entry])
_entry_decoder = msgspec.json.Decoder(Entry | None)


def parse_page(content: bytes | bytearray) -> list[Entry]:
    """Parse one page of the feed into entries, in the order of the page.

    Raises:
        msgspec.DecodeError: the content is not JSON in UTF-8, or not a list of entries. The error's message contains no
            value from the content.
    """
    _check_utf8(content)
    return _page_decoder.decode(content)


def parse_latest(content: bytes | bytearray) -> Entry | None:
    """Parse the newest entry of the feed; return None for a feed without entries (`null`, or no content).

    Raises:
        msgspec.DecodeError: the content is not JSON in UTF-8, or not an entry.
    """
    _check_utf8(content)
    return _entry_decoder.decode(content) if content.strip() else None


def _check_utf8(content: bytes | bytearray) -> None:
    """Check that the whole content is UTF-8, also the metadata, which the decoder skips.

    Raises:
        msgspec.DecodeError: the content is not UTF-8.
    """
    whole = pa.py_buffer(content)
    ends = pa.py_buffer(array("q", [0, len(content)]))
    try:
        pa.LargeStringArray.from_buffers(1, ends, whole).validate(full=True)
    except pa.ArrowInvalid:
        raise msgspec.DecodeError("invalid UTF-8") from None


def build_change_feed(entries: Sequence[Entry], read_at: datetime) -> pa.Table:
    """Return one row per entry, in the order of the entries.

    Args:
        entries: entries as the service gave them.
        read_at: time of the read, with a time zone.

    Returns:
        Rows of the `change_feed` table. The metadata is byte for byte as received.

    Raises:
        FeedEntryError: an entry lacks a UID of its key, or has an invalid timestamp. The message names the sequence.
    """
    members = zip(*map(msgspec.structs.astuple, entries), strict=True) if entries else [()] * len(_MEMBERS)
    of = dict(zip(_MEMBERS, members, strict=True))
    count = len(entries)
    texts = trim_padding(pa.array(chain.from_iterable(of[name] for name in _TRIMMED), pa.string()))
    is_blank = pc.equal(texts, "")
    if pc.any(is_blank).as_py():
        texts = pc.if_else(is_blank, None, texts)
    of_member = {name: texts.slice(place * count, count) for place, name in enumerate(_TRIMMED)}
    for name, default in (("partition_name", DEFAULT_PARTITION), ("action", ""), ("state", "")):
        if of_member[name].null_count:
            of_member[name] = of_member[name].fill_null(default)
    for column, name in zip(KEY[1:], _TRIMMED[1:], strict=False):
        if of_member[name].null_count:
            sequence = of["sequence"][pc.index(of_member[name].is_null(), True).as_py()]
            raise FeedEntryError(
                f"Entry {sequence} of the change feed has no {column.name}, so it belongs to no instance. The run "
                "stopped at the entry's window; rows that were stored before stay. Ask the service's operator to "
                "correct this entry, then materialise the window again."
            )
    timestamps = parse_timestamps(entries)
    columns = [
        *(of_member[name] for name in _TRIMMED[: len(KEY)]),
        pa.array(of["sequence"], pa.int64()),
        timestamps,
        *(of_member[name] for name in _TRIMMED[len(KEY) :]),
        pa.chunked_array(_build_texts(of["metadata"])),
        pc.floor_temporal(timestamps, unit="hour"),
        pa.repeat(pa.scalar(read_at, TIMESTAMP), len(entries)),
    ]
    return pa.Table.from_arrays(columns, schema=CHANGE_FEED.schema)


def parse_timestamps(entries: Sequence[Entry]) -> pa.TimestampArray:
    """Return the entries' timestamps in UTC, in microseconds; the feed's seventh decimal is cut, not rounded.

    Raises:
        FeedEntryError: a timestamp is not ISO 8601, or has no time zone. The message names the sequence.
    """
    texts = pa.array([entry.timestamp for entry in entries], pa.string())
    try:
        return pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1").cast(TIMESTAMP)
    except pa.ArrowInvalid as error:
        if len(entries) > 1:  # bisect to find the entry to name
            half = len(entries) // 2
            parse_timestamps(entries[:half])
            return parse_timestamps(entries[half:])
        raise FeedEntryError(
            f"Entry {entries[0].sequence} of the change feed has a timestamp that is not ISO 8601 with a time zone. "
            "The run stopped at the entry's window; rows that were stored before stay. Check that DICOM_SERVICE_URL is "
            "a DICOM service with API version 2 or later."
        ) from error


_MEMBERS = Entry.__struct_fields__
_TRIMMED = (
    *("partition_name", "study_instance_uid", "series_instance_uid", "sop_instance_uid"),
    *("action", "state", "file_path"),
)
"""Members that are trimmed: the members of the key, then others."""
_NULL = b"null"
_TEXT_BYTES = 2**31 - 1
"""Most bytes of text that an Arrow string array can hold."""


def _build_texts(metadata: Sequence[msgspec.Raw]) -> list[pa.StringArray]:
    """Return the metadata texts of a page as string arrays; an entry without metadata is null.

    The page was checked to be UTF-8, so the texts are copied once and not decoded.
    """
    sizes = [len(memoryview(text)) for text in metadata]
    if len(sizes) > 1 and sum(sizes) > _TEXT_BYTES:
        half = len(sizes) // 2
        return [*_build_texts(metadata[:half]), *_build_texts(metadata[half:])]
    is_text = [size > len(_NULL) or bytes(text) not in (b"", _NULL) for size, text in zip(sizes, metadata, strict=True)]
    valid = pa.array(is_text, pa.bool_()).buffers()[1]
    ends = pa.py_buffer(array("i", accumulate(sizes, initial=0)))
    return [pa.StringArray.from_buffers(len(sizes), ends, pa.py_buffer(b"".join(metadata)), valid)]
