"""A service, a lake, and runs of single assets over ranges of hours, with everything remembered that was read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dicom_assets.core.columns.schema import (
    CHANGE_FEED,
    FILE_INDEX,
    INSTANCE,
    SERIES,
    STUDY,
    Column,
    Grain,
    extend_tables,
)
from dicom_assets.core.tables.change_feed import HOUR, Window, parse_page
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.partitions import PARTITION_FORMAT
from dicom_assets.derive.derivation import build_derivation
from dicom_assets.derive.extract import Extraction
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.law import reference

START = datetime(2026, 3, 1, tzinfo=UTC)
UIDS = ("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
CHAIN = ("change_feed", "instance", "series", "study", "file_index")


def hours(first: int, count: int = 1) -> Window:
    return Window(START + first * HOUR, START + (first + count) * HOUR)


def partition_keys(count: int) -> list[str]:
    """The partitions of the first hours."""
    return [f"{START + number * HOUR:{PARTITION_FORMAT}}" for number in range(count)]


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Tags of a run that covers partitions one after the other."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}


def environment_of(url: str, count: int) -> dict[str, str]:
    """Settings that name a service on this machine, and so many of its hours."""
    return {
        "DICOM_SERVICE_URL": url,
        "DICOM_AUTHENTICATION": "none",
        "DICOM_START_TIME": START.isoformat(),
        "DICOM_END_TIME": (START + count * HOUR).isoformat(),
    }


def derivation(lake: Lake, name: str, window: Window, extra=()):
    """What an asset hands to the IO manager, for all but the change feed."""
    tables = {table.name: table for table in (*extend_tables(extra), HEALTHCARE_INSTANCE)}
    return build_derivation(tables[name], FeedWindow(lake, window), "/files")


def read_tables(lake: Lake) -> dict[str, list[dict]]:
    """The four tables that the law speaks of, rows in the order of their keys."""
    tables = {}
    for table in (INSTANCE, SERIES, STUDY, FILE_INDEX):
        snapshot = lake.open(table)
        rows = snapshot.read_table().to_pylist() if snapshot else []
        tables[table.name] = sorted(rows, key=lambda row, key=table.key: [row[name] for name in key])
    return tables


@dataclass
class World:
    service: Service
    lake: Lake
    read: list[dict] = field(default_factory=list)
    """Every entry that was read from the service, in the order of reading."""
    page_size: int = 3
    decodes_early: bool = True
    """Whether attributes are decoded at extraction, or when they are wanted."""
    encoded_rows: int = 10**6
    """Entries that are encoded at a time while pages arrive."""
    entries_at_once: int = 10**6
    """That a table is derived from."""
    extra: tuple[tuple[Column, Grain], ...] = ()
    """Users' columns."""
    paddings: Sequence[str] = ("", " ", "\0", "  \0")
    """Padding that the service shows behind UIDs, another one in each entry."""
    spoiled: set[tuple[str, str]] = field(default_factory=set)
    """Partitions and SOP instance UIDs of instances whose metadata cannot be had at the moment."""

    def fetch_pages(self, window: Window):
        """The feed of the service, as the client gives it."""
        offset = 0
        while True:
            page = self.service.change_feed(start=window.start, end=window.end, offset=offset, limit=self.page_size)
            page = [self._show(entry) for entry in page]
            self.read.extend(page)
            yield parse_page(json.dumps(page).encode())
            if len(page) < self.page_size:
                return
            offset += self.page_size

    def _show(self, entry: dict) -> dict:
        """An entry as a service gives it that keeps UIDs as they were sent, and has lost some metadata."""
        shown = {name: entry[name] + self._padding(entry, place) for place, name in enumerate(UIDS)}
        if (entry["partitionName"], entry["sopInstanceUid"]) in self.spoiled:
            entry = {name: value for name, value in entry.items() if name != "metadata"}
        return entry | shown

    def _padding(self, entry: dict, place: int) -> str:
        return self.paddings[(entry["sequence"] + 3 * place) % len(self.paddings)]

    def run(self, name: str, window: Window) -> None:
        """Materialise one asset for a range of hours."""
        tables = {table.name: table for table in (*extend_tables(self.extra), HEALTHCARE_INSTANCE)}
        table = tables[name]
        if name == CHANGE_FEED.name:
            now = iter(range(10**6))
            base = datetime.now(UTC)
            clock = lambda: base + timedelta(microseconds=next(now))  # noqa: E731
            early = tables["instance"] if self.decodes_early else None
            for given in Extraction(self, window, clock, early, encoded_rows=self.encoded_rows):
                self.lake.write(table, given)
        else:
            for part in FeedWindow(self.lake, window).split(self.entries_at_once):
                self.lake.write(table, build_derivation(table, part, "/files"))

    def run_chain(self, window: Window) -> None:
        for name in CHAIN:
            self.run(name, window)

    def expected(self) -> dict[str, list[dict]]:
        return reference.fold(self.read, self.extra)
