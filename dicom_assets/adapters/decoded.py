"""What the metadata in recently written files says, kept in memory: decoding it costs more than all else of an hour.

A file never changes and its name never comes again, so what is kept is what the file would give.
"""

import threading

import pyarrow as pa

LIMIT_BYTES = 64 * 2**20
"""Kept at most: some hours of a large hospital, until the same run asks for them."""


class Decoded:
    """Attributes by file; may be used by many threads."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._attributes: dict[str, pa.Table] = {}

    def keep(self, file: str, attributes: pa.Table) -> None:
        """Keeps the attributes of a file's rows, row beside row; of others the oldest go to make room."""
        with self._lock:
            self._attributes[file] = attributes
            while sum(table.nbytes for table in self._attributes.values()) > self._limit_bytes:
                del self._attributes[next(iter(self._attributes))]

    def forget(self) -> None:
        """Keeps nothing of what was kept."""
        with self._lock:
            self._attributes.clear()

    def find(self, file: str, schema: pa.Schema) -> pa.Table | None:
        """The attributes of a file's rows; None where they are not kept, or have other columns than these."""
        with self._lock:
            attributes = self._attributes.get(file)
        return attributes if attributes is not None and attributes.schema.equals(schema) else None
