"""Pieces of a window of the change feed: the query of each, and the page that its entries make."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dicom_assets.core.errors import UnreadablePageError
from dicom_assets.core.tables.change_feed import Entry, Window, parse_page
from dicom_assets.service.requests import SMALL_BYTES, Query


@dataclass(frozen=True)
class Piece:
    """A range of a window's entries, by their offsets in the window."""

    window: Window
    offset: int
    limit: int
    include_metadata: bool = True

    def __str__(self) -> str:
        return f"window {self.window}, offset {self.offset}"

    @property
    def end(self) -> int:
        """Offset behind the last entry."""
        return self.offset + self.limit

    def part(self, start: int, limit: int) -> "Piece":
        """Return the part that begins `start` entries behind the piece's beginning."""
        return replace(self, offset=self.offset + start, limit=limit)

    def halves(self) -> "list[Piece]":
        """Return the two halves, the later half first; a piece of one entry gives one half, an empty piece none."""
        half = (self.limit + 1) // 2
        return [part for part in (self.part(half, self.limit - half), self.part(0, half)) if part.limit]


@dataclass
class Page:
    """Consecutive entries of a piece that have arrived so far."""

    piece: Piece
    entries: list[Entry] = field(default_factory=list)
    answers: int = 0
    """Number of answers that the entries came in. Entries of one answer were read at one moment."""
    size_bytes: int = 0
    """Approximate memory of the entries."""
    is_last: bool = False
    """True if no entry followed in the window."""

    def add(self, entries: list[Entry], asked: int) -> None:
        """Add the entries of an answer, for which `asked` entries were requested."""
        self.entries += entries
        self.answers += 1
        self.size_bytes += sum(memoryview(entry.metadata).nbytes for entry in entries) + 1000 * len(entries)
        self.is_last = len(entries) < asked

    @property
    def rest(self) -> Piece:
        """Part of the piece that has not arrived."""
        return self.piece.part(len(self.entries), self.piece.limit - len(self.entries))


def build_query(path: str, piece: Piece, page_bytes: int) -> Query[list[Entry]]:
    """Return the query for a piece.

    Args:
        path: path of the feed, below the service's URL.
        piece: the wanted entries.
        page_bytes: greatest decoded size of an answer with metadata.
    """
    params = {
        "startTime": _utc(piece.window.start),
        "endTime": _utc(piece.window.end),
        "offset": str(piece.offset),
        "limit": str(piece.limit),
        "includeMetadata": format_flag(piece.include_metadata),
    }

    def parse(body: bytes | bytearray) -> list[Entry]:
        entries = parse_page(body)
        for entry in entries:
            _check_inside(entry, piece)
        return entries

    limit_bytes = page_bytes if piece.include_metadata else SMALL_BYTES
    return Query(path, params, parse, str(piece), limit_bytes)


def read_time(entry: Entry) -> datetime:
    """Return the entry's time with its zone; the seventh decimal digit of the seconds is cut."""
    return datetime.fromisoformat(entry.timestamp)


def format_flag(value: bool) -> str:
    """Return a boolean in the form that the service reads in a query."""
    return "true" if value else "false"


def _check_inside(entry: Entry, piece: Piece) -> None:
    window = piece.window
    try:
        inside = window.start <= read_time(entry) < window.end
    except (ValueError, TypeError):  # TypeError: without a zone
        raise UnreadablePageError(
            f"The timestamp of sequence {entry.sequence} is no time with a zone ({piece}). The service answers in a "
            "form that the client does not know: check DICOM_API_VERSION."
        ) from None
    if not inside:
        raise UnreadablePageError(
            f"Sequence {entry.sequence} lies outside of what was asked for ({piece}). Whatever answers ignores "
            "startTime and endTime: check that DICOM_SERVICE_URL is a DICOM service, and DICOM_API_VERSION."
        )


def _utc(time_: datetime) -> str:
    return time_.astimezone(UTC).isoformat().replace("+00:00", "Z")
