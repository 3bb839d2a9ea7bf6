"""An entry of the change feed, a page of them, a window of time; and entries as rows of the `change_feed` table.

Source: the DICOM service's change feed, API v2 and later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.errors import FeedEntryError
from dicom_assets.core.schema import CHANGE_FEED

HOUR = timedelta(hours=1)
DEFAULT_PARTITION = "Microsoft.Default"
"""Name of the data partition of a service without partitions."""

_JSON_NULL = b"null"


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

    sequence: int
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


_page_decoder = msgspec.json.Decoder(list[Entry])
_entry_decoder = msgspec.json.Decoder(Entry | None)


def parse_page(content: bytes) -> list[Entry]:
    """The entries of one page of the feed, in the page's order.

    Raises:
        msgspec.DecodeError: the content is no JSON, or no list of entries. Its message holds no value of the content.
    """
    return _page_decoder.decode(content)


def parse_latest(content: bytes) -> Entry | None:
    """The newest entry of the feed, or None for a feed without entries (`null`, or no content).

    Raises:
        msgspec.DecodeError: the content is no JSON, or no entry.
    """
    return _entry_decoder.decode(content) if content.strip() else None
