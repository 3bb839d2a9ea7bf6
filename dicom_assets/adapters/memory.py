"""Where Arrow's memory comes from, and how much of the work is held in it at a time."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass

DEFAULT_MEGABYTES = 2048
LEAST_MEGABYTES = 768
_PROCESS_MEGABYTES = 512
"""Of the process itself: Python, Dagster, the libraries, the pages that are read ahead, and one file of a table."""
_COPIES = 12
"""Sizes of a batch that are held while it is written, at most: its rows, what its metadata says, the files' content."""
_PAGES = 8
"""Pages of the feed that arrive at the same time."""
_ENTRY_BYTES = 2048
"""What deriving a table holds for an entry of the feed, at most: keys of it and of its instance, and a row."""


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that a process should do with. Work that needs more is done in parts, each of them stored."""

    megabytes: int = DEFAULT_MEGABYTES

    @property
    def batch_bytes(self) -> int:
        """Size of the feed's rows that are held before they are stored."""
        return self.work_bytes // _COPIES

    @property
    def entries(self) -> int:
        """Entries of the feed that a table is derived from at a time."""
        return self.work_bytes // _ENTRY_BYTES

    @property
    def page_bytes(self) -> int:
        """Greatest decoded size of one answer of the service; pages that need more are asked for in smaller parts."""
        return self.work_bytes // _PAGES

    @property
    def work_bytes(self) -> int:
        """What the process itself leaves for its work."""
        return (self.megabytes - _PROCESS_MEGABYTES) * 2**20


def choose_memory_pool() -> None:
    """Makes jemalloc the source of Arrow's memory in this process, where pyarrow was built with it.

    With pyarrow's default, mimalloc, an hour of 20,000 changes took 1.6 times as long, and a quarter more memory: see
    docs/benchmarks.md. Parquet files and groups of rows take theirs from Arrow's own default whatever pyarrow is told,
    and mimalloc kept up to 100 MiB of it. That default is read from the environment when pyarrow is imported, so call
    this before.
    """
    if sys.platform == "linux":  # where pyarrow has no jemalloc, it would warn of the name
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")  # noqa: TID251 - for Arrow to read
    import pyarrow as pa

    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def release_memory() -> None:
    """Gives memory that is free back to the system, where the C library is glibc.

    After a large block was freed, glibc keeps the next ones of that size, up to 64 MiB for each of many threads: a
    process that writes table after table would seem to grow.
    """
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
