"""Outputs that assets hand to the IO manager, and that count what was read or derived.

The numbers are kept hour by hour, so that each partition of a range gets its own.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.tables.change_feed import Entry, Window
from dicom_assets.core.tables.merge import Desired
from dicom_assets.defs.runs.progress import Progress
from dicom_assets.derive.derivation import WindowDerivation
from dicom_assets.derive.extract import Extraction, HourRead, Named
from dicom_assets.derive.feed_window import FeedWindow, count_values
from dicom_assets.lake.files.parquet import EncodedRows
from dicom_assets.lake.table.writing import Derivation
from dicom_assets.service.statistics import Statistics

if TYPE_CHECKING:
    from dicom_assets.service.client import DicomService

SAMPLE_ROWS = 5

KEPT_KEYS = 250_000
"""Most keys that a run keeps to check its writes; the audit checks the rows of a range beyond that number."""

ROW_COUNT = "dagster/partition_row_count"
UNREADABLE = "unreadable"
"""Metadata entry with the number of entries without usable metadata."""
UNREADABLE_ENTRIES = "unreadable_entries"
"""Metadata entry with a text that lists sequence and time of some of them."""


@runtime_checkable
class Described(Protocol):
    """An output that has numbers and a sample once it was stored."""

    @property
    def sample(self) -> pa.Table | None:
        """Some rows, for a preview; None where there are none."""
        ...

    def describe_hours(self) -> dict[datetime, dict[str, Any]]:
        """Return the numbers of each of the run's hours, by the hour's start."""
        ...

    def describe_run(self) -> dict[str, Any]:
        """Return the numbers of the run as a whole."""
        ...


@dataclass(frozen=True)
class Remaining:
    """Hours that are still to be read."""

    window: Window
    earlier: Mapping[datetime, Mapping[str, Any]] = field(default_factory=dict)
    """Numbers of the run's hours that an earlier attempt has stored, by the hour's start."""


class Reading:
    """The change feed of a window, read as it is iterated."""

    def __init__(
        self,
        client: "DicomService",
        remaining: Remaining,
        now: Callable[[], datetime],
        *,
        instance: Table | None = None,
        batch_bytes: int,
        progress: Progress,
    ) -> None:
        """Create a reading.

        Args:
            client: Client of the service.
            remaining: Hours to read, all of them whole hours.
            now: Returns the current time, with a zone.
            instance: The table `instance`, if its attributes are needed next; None to decode none.
            batch_bytes: Bytes of rows that are collected before they are stored.
            progress: Receives every page and hour that was read.
        """
        self._client = client
        self._feed = _TimedFeed(client)
        self._extraction = Extraction(self._feed, remaining.window, now, instance, batch_bytes)
        self._progress = progress
        self._costs = client.statistics
        self._earlier = remaining.earlier
        self._hours: dict[datetime, tuple[HourRead, Statistics]] = {}
        self._stored: list[datetime] = []
        self._seconds_reading = 0.0
        self.sample: pa.Table | None = None

    @property
    def unreadable(self) -> tuple[int, list[int]]:
        """Number of entries without usable metadata, and the sequences of some of them."""
        reads = [read for read, _ in self._hours.values()]
        earlier = sum(int(numbers.get(UNREADABLE, 0)) for numbers in self._earlier.values())
        named = [sequence for read in reads for sequence, _ in read.named]
        return earlier + sum(read.unreadable for read in reads), named

    @property
    def entries(self) -> dict[datetime, int]:
        """Number of entries that were read, by the start of their hour."""
        return {start: read.entries for start, (read, _) in self._hours.items()}

    def __iter__(self) -> Iterator[Derivation]:
        steps = self._extraction.steps()
        while True:
            began = time.perf_counter()
            step = next(steps, None)
            self._seconds_reading += time.perf_counter() - began
            if step is None:
                return
            if isinstance(step, HourRead):
                self._count(step)
                continue
            if self.sample is None:
                self.sample = _first_rows(step.desired)
            yield step
            self._stored = list(self._hours)  # the IO manager requests the next batch once this one is stored

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def describe_hours(self) -> dict[datetime, dict[str, Any]]:
        """Return, by the hour's start, the hour's entries by action and state, and its pages, retries and bytes."""
        return {
            **{start: dict(numbers) for start, numbers in self._earlier.items()},
            **{start: _describe_hour(*self._hours[start]) for start in self._hours},
        }

    def describe_stored(self) -> dict[datetime, dict[str, Any]]:
        """Return the numbers of the hours whose rows are all stored, without the hours of earlier attempts."""
        return {start: _describe_hour(*self._hours[start]) for start in self._stored}

    def describe_run(self) -> dict[str, Any]:
        """Return sums over the hours, and seconds by stage."""
        costs = sum((costs for _, costs in self._hours.values()), Statistics())
        return {
            "entries": sum(self.entries.values()),
            "pages": sum(read.pages for read, _ in self._hours.values()),
            "retries": costs.retries,
            "bytes_received": costs.bytes,
            "seconds/download": round(self._feed.seconds, 3),
            "seconds/parse": round(self._seconds_reading - self._feed.seconds, 3),
        }

    def _count(self, read: HourRead) -> None:
        if read.is_complete:
            costs, self._costs = self._client.statistics - self._costs, self._client.statistics
            self._hours[read.hour.start] = (read, costs)
        self._progress.advance(read)


class _TimedFeed:
    """The service's feed, with the seconds spent on waiting for pages."""

    def __init__(self, client: "DicomService") -> None:
        self._client = client
        self.seconds = 0.0

    def fetch_pages(self, window: Window) -> Iterator[list[Entry]]:
        with closing(self._client.fetch_pages(window)) as pages:
            while True:
                began = time.perf_counter()
                page = next(pages, None)
                self.seconds += time.perf_counter() - began
                if page is None:
                    return
                yield page


class Observed:
    """A table's derivation in parts that records its results: numbers, a few rows, and a bounded number of keys."""

    def __init__(self, changes: FeedWindow, derive: Callable[[FeedWindow], WindowDerivation]) -> None:
        """Create the derivation of a run.

        Args:
            changes: Entries of the run's hours.
            derive: Returns the derivation for some of these entries.
        """
        self._changes = changes
        self._derive = derive
        self._parts: list[ObservedPart] = []

    def in_parts(self, entries: int) -> "list[ObservedPart]":
        """Return the derivation's parts, each of about `entries` entries of the feed."""
        self._parts = [ObservedPart(self._derive(part), self._may_keep) for part in self._changes.split(entries)]
        return self._parts

    @property
    def rows(self) -> int:
        """Number of rows that were derived, of any hour."""
        return sum(part.rows for part in self._parts)

    @property
    def nulls(self) -> Counter[str]:
        """Number of derived rows without a value, by column."""
        return sum((part.nulls for part in self._parts), Counter())

    @property
    def failures(self) -> Counter[str]:
        """Number of values that could not be converted, by column."""
        return sum((part.derivation.failures or Counter() for part in self._parts), Counter())

    @property
    def sample(self) -> pa.Table | None:
        """Some of the derived rows; None before a part was built."""
        return next((part.sample for part in self._parts if part.sample is not None), None)

    def take_kept(self) -> Iterator[Desired]:
        """Yield the kept parts of the derivation, with only the key columns of their rows; huge runs keep not all.

        Each part is yielded once and released: Dagster holds an asset's outputs until some time after the run.
        """
        for part in self._parts:
            kept, part.kept = part.kept, None
            if kept is not None:
                yield kept

    @property
    def rows_not_kept(self) -> int:
        """Number of derived rows in parts that were not kept."""
        return sum(part.rows for part in self._parts if not part.is_kept)

    def is_current(self) -> bool:
        """Return whether the sources are unchanged since they were read."""
        return all(part.is_current() for part in self._parts)

    def describe_hours(self) -> dict[datetime, dict[str, Any]]:
        """Return, by the hour's start, the number of rows whose newest change lies in the hour."""
        rows = sum((part.rows_by_hour for part in self._parts), Counter())
        return {hour.start: {ROW_COUNT: rows[hour.start]} for hour in self._changes.window.hours()}

    def describe_run(self) -> dict[str, Any]:
        """Return the number of derived rows, and the number of values that could not be converted, by column."""
        numbers: dict[str, Any] = {"rows_derived": self.rows}
        if self._derive(self._changes).failures is not None:
            numbers["conversion_failures"] = self.failures.total()
            numbers |= {f"conversion_failures/{name}": count for name, count in self.failures.items()}
        return numbers

    def _may_keep(self, keys: int) -> bool:
        return keys + sum(part.keys for part in self._parts if part.is_kept) <= KEPT_KEYS


class ObservedPart:
    """One part of an observed derivation."""

    def __init__(self, derivation: WindowDerivation, may_keep: Callable[[int], bool]) -> None:
        self.derivation = derivation
        self._may_keep = may_keep
        self.rows_by_hour: Counter[datetime] = Counter()
        self.rows = self.keys = 0
        self.nulls: Counter[str] = Counter()
        self.sample: pa.Table | None = None
        self.is_kept = False
        self.kept: Desired | None = None

    def build(self) -> Desired:
        """Return the desired rows, and record numbers of these rows."""
        self.is_kept, self.kept = False, None
        desired = self.derivation.build()
        rows = desired.rows
        self.rows_by_hour = count_values(pc.floor_temporal(rows["lastModifiedTimestamp"], unit="hour"))
        self.rows = len(rows)
        self.nulls = Counter({name: rows[name].null_count for name in rows.column_names})
        self.sample = _first_rows(desired)
        self.keys = len(desired.keys)
        self.is_kept = self._may_keep(self.keys)
        if self.is_kept:
            self.kept = Desired(desired.keys, rows.select(desired.keys.column_names))
        return desired

    def is_current(self) -> bool:
        """Return whether the source is unchanged since the last `build`."""
        return self.derivation.is_current()


def _first_rows(desired: Desired | EncodedRows) -> pa.Table:
    """Return a copy of the first rows; a slice would keep all rows in memory."""
    if isinstance(desired, EncodedRows):
        return desired.read_first(SAMPLE_ROWS)
    first = desired.rows.slice(0, SAMPLE_ROWS)
    return first.take(pa.array(range(len(first)), pa.int64()))


def _describe_hour(read: HourRead, costs: Statistics) -> dict[str, Any]:
    numbers = {"pages": read.pages, "retries": costs.retries, "bytes_received": costs.bytes}
    return {
        ROW_COUNT: read.entries,
        **{name: number for name, number in numbers.items() if number},
        **{f"action/{name.lower()}": count for name, count in sorted(read.actions.items())},
        **{f"state/{name.lower()}": count for name, count in sorted(read.states.items())},
        **({UNREADABLE: read.unreadable, UNREADABLE_ENTRIES: format_named(read.named)} if read.unreadable else {}),
    }


def format_named(named: Sequence[Named]) -> str:
    """Return entries as text, for metadata that a sensor parses later."""
    return " ".join(f"{sequence}@{time_.isoformat()}" for sequence, time_ in named)


def parse_named(text: str) -> list[Named]:
    """Return the entries that `format_named` wrote."""
    pairs = (part.partition("@") for part in text.split())
    return [(int(sequence), datetime.fromisoformat(time_)) for sequence, _, time_ in pairs]
