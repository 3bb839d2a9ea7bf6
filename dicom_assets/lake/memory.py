"""Memory: the source of Arrow's memory, and the limits of the work that is held in memory at a time."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass

DEFAULT_MEGABYTES = 2048
LEAST_MEGABYTES = 768
_PROCESS_MEGABYTES = 512
"""Memory of the process itself: Python, Dagster, libraries, pages that are read ahead, and one file of a table."""
_COPIES = 12
"""Greatest memory of a batch that is written, in sizes of the batch: its rows, its attributes, the files' content."""
_PAGES = 8
"""Number of pages of the feed that arrive at the same time."""
_ENTRY_BYTES = 2048
"""Greatest memory, per entry of the feed, to derive a table: the keys of the entry and of its instance, and a row."""


@dataclass(frozen=True)
class MemoryLimit:
    """Memory limit of a process. Work that needs more memory is split into parts, and each part is stored."""

    megabytes: int = DEFAULT_MEGABYTES

    @property
    def batch_bytes(self) -> int:
        """Size in bytes of the feed's rows that are held before they are stored."""
        return self.work_bytes // _COPIES

    @property
    def entries(self) -> int:
        """Number of entries of the feed from which a table is derived at a time."""
        return self.work_bytes // _ENTRY_BYTES

    @property
    def page_bytes(self) -> int:
        """Greatest decoded size in bytes of one answer of the service; larger pages are requested in parts."""
        return self.work_bytes // _PAGES

    @property
    def work_bytes(self) -> int:
        """Memory in bytes for the work: the limit without the memory of the process itself."""
        return (self.megabytes - _PROCESS_MEGABYTES) * 2**20


def choose_memory_pool() -> None:
    """Make jemalloc the source of Arrow's memory in this process, if pyarrow was built with jemalloc.

    With pyarrow's default, mimalloc, an hour of 20,000 changes took 1.6 times as long, and a quarter more memory: see
    docs/benchmarks.md. Parquet files and groups of rows use Arrow's own default pool, whatever pool pyarrow is set to,
    and mimalloc kept up to 100 MiB of their memory. Arrow reads its default from the environment when pyarrow is
    imported, so call this function before the import.
    """
    if sys.platform == "linux":  # elsewhere pyarrow lacks jemalloc, and would warn of the name
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")  # noqa: TID251 - for Arrow to read
    import pyarrow as pa

    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def release_memory() -> None:
    """Return free memory to the system, if the C library is glibc.

    After a large block was freed, glibc keeps the next freed blocks of that size, up to 64 MiB for each of many
    threads. A process that writes table after table would seem to grow.
    """
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
