"""Staged rows of a merge by Spark, and the fence against a MERGE that a killed writer left running.

Each attempt stages one Parquet file, in the lake beside the tables, and deletes it when its MERGE has ended. A writer
that is killed, or gets no answer, leaves a MERGE running, and nobody checks the sources after that MERGE. The remaining
file shows this to the table's next writer, whatever the engine. The next writer deletes the file, so that the MERGE
cannot begin any more; changes the table's metadata, after which no running MERGE can commit; and then checks the
sources once more.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import pyarrow as pa

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.tables.merge import Desired, align_rows
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.files.parquet import open_writer
from dicom_assets.lake.storage.storage import Storage

FOLDER = "_staging"
"""Folder of all staged files; readers of Delta tables ignore names that begin with an underscore."""
LIVES = "_lives"
"""Name of the column that is true for a key with a row, and false for a key that must be absent; of the latter only the
key's columns and the fence count."""
ISOLATION = {"delta.isolationLevel": "Serializable"}
"""Properties of a table that Spark merges. Databricks has a weaker isolation level by default, under which two writers
may insert one key."""
_FENCE = "dicomAssets.fence"
_ROWS_PER_GROUP = 20_000
"""Rows that one task of an engine reads. Besides, Arrow takes at most 2 GB of an hour's metadata in one piece."""


class Staging:
    """Staged files of one table."""

    def __init__(self, storage: Storage, path: str) -> None:
        """Create the access to a table's staged files.

        Args:
            storage: storage of the lake.
            path: folder of the table, distinct among services that share it.
        """
        self._storage = storage
        self._path = f"{FOLDER}/{path}"

    @cached_property
    def _files(self) -> Files:
        return Files(self._storage, self._path)

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

    def uri(self, name: str) -> str:
        """Return the location of a file."""
        return f"{self._files.uri}/{name}"

    def names(self) -> list[str]:
        """Return the names of the existing files."""
        return [file.name for file in self._files.stored()]

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; a file that does not exist is skipped."""
        self._files.delete(names)

    def list_unfinished(self, properties: Mapping[str, str]) -> list[str]:
        """Return the names of the files of writers that are at work or were killed.

        Args:
            properties: properties of the table.
        """
        return self.names() if is_isolated(properties) else []

    def lock_out(self, names: Sequence[str]) -> dict[str, str]:
        """Delete files, so that no MERGE of them can begin.

        Returns:
            Properties of the table; once they are set, no MERGE that has begun can commit.
        """
        self.delete(names)
        return {_FENCE: str(uuid.uuid4())}

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Let the table's next writer take over, if this process is killed or fails inside the block."""
        marker = self._store(b"")  # means to the next writer what a staged file means
        yield
        self.delete([marker])

    def _store(self, content: bytes) -> str:
        name = f"{uuid.uuid4()}.parquet"
        self._files.write_aside(name, content)
        return name


def is_isolated(properties: Mapping[str, str]) -> bool:
    """Return whether Spark merges a table, by the table's properties."""
    return properties.items() >= ISOLATION.items()
