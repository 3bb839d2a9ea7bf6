"""Cache of the DICOM attributes of recently written rows, until the run that wrote the rows derives from them.

A file never changes and its name is never used again, so cached attributes always agree with the file. Decoding the
metadata again would cost more than the rest of an hour's work.
"""

import json
import threading
from collections.abc import Sequence

import pyarrow as pa
from deltalake.transaction import AddAction

LIMIT_BYTES = 64 * 2**20
"""Greatest size of the cache: some hours of a large hospital."""


class AttributeCache:
    """Cache of attributes by file; may be used by many threads."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._attributes: dict[str, pa.Table] = {}

    def keep(self, files: Sequence[AddAction], attributes: pa.Table) -> None:
        """Keep the attributes of new rows; discard those of the oldest files to make room.

        Args:
            files: files of the rows.
            attributes: attributes of the rows, one for each in the order of the files.
        """
        with self._lock:
            start = 0
            for file in files:
                rows = json.loads(file.stats)["numRecords"]
                self._attributes[file.path] = attributes.slice(start, rows)
                start += rows
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
