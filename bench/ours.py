"""The project's own code, put together for the benchmarks as its assets put it together, without Dagster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from dicom_assets.adapters.delta import Derivation, Lake
from dicom_assets.adapters.derive import AggregateOfWindow, HoursOf, InstancesOfWindow
from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.extract import Extraction
from dicom_assets.adapters.memory import choose_memory_pool
from dicom_assets.adapters.storage import Storage
from dicom_assets.core.change_feed import Window
from dicom_assets.core.file_index import build_file_index
from dicom_assets.core.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, TABLES, Table
from dicom_assets.core.series import build_series
from dicom_assets.core.study import build_studies

FILES = "abfss://files@bench.dfs.core.windows.net"
Seconds = dict[str, float]


choose_memory_pool()


def open_lake(folder: str) -> Lake:
    return Lake(Storage(folder), {table.name: table.name for table in TABLES})


def parse_window(start: str, end: str) -> Window:
    return Window(datetime.fromisoformat(start), datetime.fromisoformat(end))


def extraction(client: DicomService, window: Window, instance: Table | None = None) -> Extraction:
    return Extraction(client, window, lambda: datetime.now(UTC), lambda _: None, instance)


def run_chain(client: DicomService, lake: Lake, window: Window) -> Seconds:
    """Brings the window into all five tables; gives the seconds spent on each."""
    hours = HoursOf(lake, window)
    derivations: dict[str, Derivation] = {
        INSTANCE.name: InstancesOfWindow(hours),
        SERIES.name: AggregateOfWindow(hours, SERIES, build_series),
        STUDY.name: AggregateOfWindow(hours, STUDY, build_studies),
        FILE_INDEX.name: AggregateOfWindow(hours, FILE_INDEX, partial(build_file_index, file_system=FILES)),
    }
    seconds: Seconds = {}
    with stopwatch(seconds, CHANGE_FEED.name):
        for given in extraction(client, window, INSTANCE):
            lake.write(CHANGE_FEED, given)
    for table in TABLES[1:]:
        with stopwatch(seconds, table.name):
            lake.write(table, derivations[table.name])
    return seconds


@contextmanager
def stopwatch(seconds: Seconds, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 4)
