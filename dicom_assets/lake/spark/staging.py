"""Staged rows for a merge engine that reads files: one Parquet file for each attempt, in the lake beside the tables.

A file is deleted when its merge has ended. A remaining file belongs to a writer that is still at work or was killed;
the next writer of the table deletes it.
"""

import uuid
from collections.abc import Sequence

import obstore
import pyarrow as pa

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.tables.merge import Desired, align_rows
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.parquet import open_writer

FOLDER = "_staging"
"""Folder of all staged files; readers of Delta tables ignore names that begin with an underscore."""
LIVES = "_lives"
"""Name of the column that is true for a key with a row, and false for a key that must be absent; of the latter only the
key's columns and the fence count."""
_ROWS_PER_GROUP = 20_000
"""Rows that one task of an engine reads. Besides, Arrow takes at most 2 GB of an hour's metadata in one piece."""


class Staging:
    """Staged files of one table."""

    def __init__(self, storage: Storage, path: str) -> None:
        """Create the access to a table's staged files.

        Args:
            storage: storage of the lake.
            path: folder of the table.
        """
        self._storage = storage
        self._path = f"{FOLDER}/{path}"

    def put(self, desired: Desired, table: Table) -> str:
        """Stage the desired rows and absent keys of a table; return the file's name."""
        schema = pa.schema([field.with_nullable(True) for field in table.schema])
        gone = desired.keys.join(desired.rows.select(list(table.key)), keys=list(table.key), join_type="left anti")
        sink = pa.BufferOutputStream()
        with open_writer(sink, schema.append(pa.field(LIVES, pa.bool_()))) as writer:
            for rows, lives in ((desired.rows, True), (gone, False)):
                for start in range(0, len(rows), _ROWS_PER_GROUP):
                    part = align_rows(rows.slice(start, _ROWS_PER_GROUP), schema)
                    writer.write_table(part.append_column(LIVES, pa.repeat(lives, len(part))))
        return self._store(sink.getvalue().to_pybytes())

    def mark(self) -> str:
        """Write an empty file and return its name; for the table's next writer it means what a staged file means."""
        return self._store(b"")

    def uri(self, name: str) -> str:
        """Return the location of a file."""
        return self._storage.uri(f"{self._path}/{name}")

    def names(self) -> list[str]:
        """Return the names of the existing files."""
        with self._storage.explained(self._path, "list"):
            files = obstore.list_with_delimiter(self._storage.open_store(self._path))["objects"]
        return [file["path"] for file in files]

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; a file that is gone already is no error."""
        with self._storage.explained(self._path, "delete staged files from"):
            store = self._storage.open_store(self._path)
            for name in names:
                try:
                    obstore.delete(store, name)
                except FileNotFoundError:
                    continue

    def _store(self, content: bytes) -> str:
        name = f"{uuid.uuid4()}.parquet"
        with self._storage.explained(self._path, "write"):
            obstore.put(self._storage.open_store(self._path), name, content)
        return name
