"""Cache of the attributes in recently written files: decoding metadata costs more than the rest of an hour's work.

A file never changes and its name is never used again, so cached attributes always agree with the file.
"""

import threading

import pyarrow as pa

LIMIT_BYTES = 64 * 2**20
"""Greatest size of the cache: some hours of a large hospital, until the run that wrote the files reads them."""


class Decoded:
    """Cache of attributes by file; may be used by many threads."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._attributes: dict[str, pa.Table] = {}

    def keep(self, file: str, attributes: pa.Table) -> None:
        """Keep the attributes of a file's rows, one for each row in order; discard the oldest files' to make room."""
        with self._lock:
            self._attributes[file] = attributes
            while sum(table.nbytes for table in self._attributes.values()) > self._limit_bytes:
                del self._attributes[next(iter(self._attributes))]

    def forget(self) -> None:
        """Discard all attributes."""
        with self._lock:
            self._attributes.clear()

    def find(self, file: str, schema: pa.Schema) -> pa.Table | None:
        """Return the attributes of a file's rows; None if they are not cached, or have another schema."""
        with self._lock:
            attributes = self._attributes.get(file)
        return attributes if attributes is not None and attributes.schema.equals(schema) else None
