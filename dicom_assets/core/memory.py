"""Limits of the work that a process holds in memory at a time."""

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
