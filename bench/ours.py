"""The project's own code, put together for the benchmarks as its assets put it together, without Dagster."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from dicom_assets.core.memory import MemoryLimit
from dicom_assets.lake.memory import choose_memory_pool

choose_memory_pool()

import duckdb  # noqa: F401 — imported when metadata is first read; what is measured is the work
import pyarrow as pa

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, TABLES, Table
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.derive.derivation import build_derivation
from dicom_assets.derive.extract import Extraction
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import Derivation
from dicom_assets.service.client import DicomService

FILES = "abfss://files@bench.dfs.core.windows.net"
MEMORY = MemoryLimit()
Seconds = dict[str, float]
Cost = dict[str, float]


pa.array([0])  # the first list that Arrow sees imports pandas, where that is installed: here it is, for notebooks


def open_lake(folder: str, spark_remote: str = "") -> Lake:
    storage, paths = Storage(folder), {table.name: table.name for table in TABLES}
    if not spark_remote:
        return Lake(storage, paths)
    from dicom_assets.lake.spark.engine import SparkEngine
    from dicom_assets.lake.spark.session import Spark

    return Lake(storage, paths, engine=SparkEngine(Spark(spark_remote)))


def parse_window(start: str, end: str) -> Window:
    return Window(datetime.fromisoformat(start), datetime.fromisoformat(end))


def extraction(
    client: DicomService, window: Window, instance: Table | None = None, memory: MemoryLimit = MEMORY
) -> Extraction:
    return Extraction(client, window, lambda: datetime.now(UTC), instance, memory.batch_bytes)


def run_chain(client: DicomService, lake: Lake, window: Window, memory: MemoryLimit = MEMORY) -> dict[str, Cost]:
    """Brings the window into all five tables; gives what each took."""
    costs: dict[str, Cost] = {}
    for table in TABLES:
        wall, cpu = time.perf_counter(), time.process_time()
        parts: Iterable[Derivation] = extraction(client, window, INSTANCE, memory)
        if table is not CHANGE_FEED:
            changes = FeedWindow(lake, window).split(memory.entries)
            parts = (build_derivation(table, part, FILES) for part in changes)
        commits = sum(lake.write(table, part).commits for part in parts)
        costs[table.name] = {
            "seconds": round(time.perf_counter() - wall, 4),
            "cpu_seconds": round(time.process_time() - cpu, 4),
            "commits": commits,
        }
    return costs


@contextmanager
def stopwatch(seconds: Seconds, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 4)
