"""Where Arrow's memory comes from."""

from contextlib import suppress

import pyarrow as pa


def choose_memory_pool() -> None:
    """Makes jemalloc the source of Arrow's memory in this process, where pyarrow was built with it.

    With pyarrow's default, mimalloc, an hour of 20,000 changes took 1.6 times as long, and a quarter more memory: see
    docs/benchmarks.md.
    """
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
