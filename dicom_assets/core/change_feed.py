"""An entry of the change feed, a page of them, a window of time; and entries as rows of the `change_feed` table.

Source: the DICOM service's change feed, API v2 and later.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.elements import trim_padding
from dicom_assets.core.errors import FeedEntryError
from dicom_assets.core.schema import CHANGE_FEED, KEY, TIMESTAMP

HOUR = timedelta(hours=1)
DEFAULT_PARTITION = "Microsoft.Default"
"""Name of the data partition of a service without partitions."""


@dataclass(frozen=True, order=True)
class Window:
    """A span of the change feed: `start` inclusive, `end` exclusive, both with a time zone."""

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

    def hours(self) -> "Iterator[Window]":
        """The window's hours in order, each a window; the first and the last are cut at the window's ends."""
        start = self.start.astimezone(UTC)
        while start < self.end:
            end = min(start.replace(minute=0, second=0, microsecond=0) + HOUR, self.end.astimezone(UTC))
            yield Window(start, end)
            start = end


class Entry(msgspec.Struct, gc=False, rename="camel"):
    """One change of one SOP instance, as the feed gave it. Members the service omitted have their defaults."""

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
    """The DICOM JSON text, byte for byte; empty when the service sent none."""


_OBJECT = ord("{")


def has_metadata(entry: Entry) -> bool:
    """Return whether the entry brings metadata that can be used, which is a JSON object."""
    text = memoryview(entry.metadata)
    return bool(text) and text[0] == _OBJECT


_page_decoder = msgspec.json.Decoder(list[Entry])
_entry_decoder = msgspec.json.Decoder(Entry | None)


def parse_page(content: bytes | bytearray) -> list[Entry]:
    """The entries of one page of the feed, in the page's order.

    Raises:
        msgspec.DecodeError: the content is no JSON in UTF-8, or no list of entries. Its message holds no value of it.
    """
    _check_utf8(content)
    return _page_decoder.decode(content)


def parse_latest(content: bytes | bytearray) -> Entry | None:
    """The newest entry of the feed, or None for a feed without entries (`null`, or no content).

    Raises:
        msgspec.DecodeError: the content is no JSON in UTF-8, or no entry.
    """
    _check_utf8(content)
    return _entry_decoder.decode(content) if content.strip() else None


def _check_utf8(content: bytes | bytearray) -> None:
    """Look into the metadata, which the decoder skips.

    Raises:
        msgspec.DecodeError: the content is no UTF-8.
    """
    whole = pa.py_buffer(content)
    ends = pa.py_buffer(array("q", [0, len(content)]))
    try:
        pa.LargeStringArray.from_buffers(1, ends, whole).validate(full=True)
    except pa.ArrowInvalid:
        raise msgspec.DecodeError("invalid UTF-8") from None


def build_change_feed(entries: Sequence[Entry], read_at: datetime) -> pa.Table:
    """Return one row per entry, in the entries' order.

    The service keeps UIDs as they were stored, with blanks or NULs behind them, and shows one instance with and without
    them. They are no part of a UID, so no text but the metadata has them.

    Args:
        entries: as the service gave them.
        read_at: when they were read, with a time zone.

    Returns:
        Rows of the `change_feed` table, metadata byte for byte as received.

    Raises:
        FeedEntryError: an entry has no UID where its key needs one, or a timestamp that is none; names the sequence.
    """
    members = zip(*map(msgspec.structs.astuple, entries), strict=True) if entries else [()] * len(_MEMBERS)
    of = dict(zip(_MEMBERS, members, strict=True))
    count = len(entries)
    texts = trim_padding(pa.array(chain.from_iterable(of[name] for name in _TRIMMED), pa.string()))
    is_empty = pc.fill_null(pc.equal(texts, ""), True)
    of_member = {name: texts.slice(place * count, count) for place, name in enumerate(_TRIMMED)}
    if pc.any(is_empty).as_py():
        absent = {name: is_empty.slice(place * count, count) for place, name in enumerate(_TRIMMED)}
        for name, default in (("partition_name", DEFAULT_PARTITION), ("file_path", None)):
            of_member[name] = pc.if_else(absent[name], default, of_member[name])
        for column, name in zip(KEY[1:], _TRIMMED[1:], strict=False):
            place = pc.index(absent[name], True).as_py()
            if place < 0:
                continue
            sequence = of["sequence"][place]
            raise FeedEntryError(
                f"Entry {sequence} of the change feed has no {column.name}: it belongs to no instance, so the run "
                "stopped at its window; what was stored before stays. Ask the service's operator for this sequence; "
                "once it is mended, materialise the window again."
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
    """The entries' times in UTC microseconds; the feed's seventh digit is cut, not rounded.

    Raises:
        FeedEntryError: a timestamp is none, or has no time zone; names the sequence.
    """
    texts = pa.array([entry.timestamp for entry in entries], pa.string())
    try:
        return pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1").cast(TIMESTAMP)
    except pa.ArrowInvalid as error:
        if len(entries) > 1:  # which one is it?
            half = len(entries) // 2
            parse_timestamps(entries[:half])
            return parse_timestamps(entries[half:])
        raise FeedEntryError(
            f"Entry {entries[0].sequence} of the change feed has a timestamp that is not ISO 8601 with a time zone, "
            "so the run stopped at its window; what was stored before stays. Check that DICOM_SERVICE_URL is a DICOM "
            "service with API version 2 or later."
        ) from error


_MEMBERS = Entry.__struct_fields__
_TRIMMED = (
    *("partition_name", "study_instance_uid", "series_instance_uid", "sop_instance_uid"),
    *("action", "state", "file_path"),
)
"""Members whose padding is no part of them: the key's, then others."""
_NULL = b"null"
_TEXT_BYTES = 2**31 - 1
"""Of text that an array of Arrow's can hold."""


def _build_texts(metadata: Sequence[msgspec.Raw]) -> list[pa.StringArray]:
    """Return the texts, in one copy of a page that was found to be UTF-8; null where there is none."""
    sizes = [len(memoryview(text)) for text in metadata]
    if len(sizes) > 1 and sum(sizes) > _TEXT_BYTES:
        half = len(sizes) // 2
        return [*_build_texts(metadata[:half]), *_build_texts(metadata[half:])]
    is_text = [size > len(_NULL) or bytes(text) not in (b"", _NULL) for size, text in zip(sizes, metadata, strict=True)]
    valid = pa.array(is_text, pa.bool_()).buffers()[1]
    ends = pa.py_buffer(array("i", accumulate(sizes, initial=0)))
    return [pa.StringArray.from_buffers(len(sizes), ends, pa.py_buffer(b"".join(metadata)), valid)]
