"""Memory of the process: the source of Arrow's memory, and its return to the system."""

import os
import sys
from contextlib import suppress


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
