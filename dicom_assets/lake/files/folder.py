"""Files in a table's folder: Parquet files read and written, and the log's and the project's files beside them."""

import json
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction
from obstore.exceptions import AlreadyExistsError

from dicom_assets.core.errors import ForeignTableError
from dicom_assets.core.tables.merge import align_rows
from dicom_assets.lake.files import parquet
from dicom_assets.lake.files.data_file import UNCOUNTED, DataFile
from dicom_assets.lake.files.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.storage.storage import Storage

CONCURRENT_FILES = 2
"""Files that are written at the same time: each occupies one core, and holds a second copy of its rows meanwhile."""

FILES_AHEAD = 4
"""Files of a storage account that are read at the same time: each file needs several requests, one after another."""
BYTES_AHEAD = 4 * 2**20
"""Size on disk of the files read at the same time, at most, where metadata is read: it takes ten times that size in
memory, or more."""

STREAMED_ROWS = 5000
"""Rows of a large file that are read at once."""
STREAMED_BYTES = 2**20
"""Stored bytes of each column that are buffered while a large file is read in parts."""

INT96_UNIT = "us"
"""Unit in which INT96 timestamps are read; Spark stores times as INT96 by default. In nanoseconds the earliest time
would lie in 1677."""


@dataclass(frozen=True)
class StoredFile:
    """Any file in a table's folder, whether the table has it or not."""

    name: str
    size_bytes: int
    modified: datetime


Stamp = tuple[str | None, datetime, int]
"""ETag, time of storing and size of a file. Another file under the same name has another stamp."""


class Files:
    """Files in a table's folder; where several services share the table, the files of one, in a subfolder."""

    def __init__(self, storage: Storage, path: str, scope: Scope = WHOLE_TABLE) -> None:
        self.scope = scope
        """Files of the table that belong here; other files are neither written nor deleted."""
        self._storage = storage
        self._path = path
        self._store = storage.open_store(path)
        self._counted: dict[str, int] = {}

    @property
    def uri(self) -> str:
        """Location of the table, for people."""
        return self._storage.uri(self._path)

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Return a context that raises storage's refusals as LakeUnavailableError.

        Args:
            doing: verb phrase of the message, such as "read": what the code inside does to the table.
        """
        return self._storage.explained(self._path, doing)

    def read(self, file: DataFile, schema: pa.Schema, *, dictionaries: Sequence[str] = ()) -> pa.Table:
        """Return a file's rows in the schema's columns; a column that the file is too old to have is null.

        Args:
            file: file of the table.
            schema: columns to read.
            dictionaries: columns to leave as dictionaries, where only their distinct values matter.
        """
        with self._open(file, read_dictionary=list(dictionaries), pre_buffer=not self._storage.is_local) as content:
            present = set(content.schema_arrow.names)
            rows = content.read([name for name in schema.names if name in present], use_threads=False)
        if not dictionaries:
            return self._fit(rows, file, schema)
        columns = [pa.nulls(len(rows), each.type) if each.name not in present else rows[each.name] for each in schema]
        return pa.table(columns, names=schema.names)

    def _fit(self, rows: pa.Table, file: DataFile, schema: pa.Schema) -> pa.Table:
        """Return a file's rows in the schema's columns.

        Raises:
            ForeignTableError: a value does not fit its column's type. The message does not quote it: it may be a
                patient's.
        """
        try:
            return align_rows(rows, schema)
        except pa.ArrowException as error:
            raise ForeignTableError(
                f"The file {file.name} of {self.uri} has values that do not fit the types of the "
                f"table's columns ({type(error).__name__}), so another engine wrote it. Nothing was written. Restore "
                "the version before it came (RESTORE TABLE, in Spark), or take its rows out."
            ) from None

    def read_each(self, files: Iterable[DataFile], schema: pa.Schema) -> Iterator[tuple[DataFile, pa.Table]]:
        """Yield the rows of several files, in the files' order.

        Files of a storage account are read ahead unless one of them is large. A large file comes in parts.
        """
        files = list(files)
        if self._storage.is_local or any(file.is_large for file in files):
            for file in files:
                parts = self.stream(file, schema) if file.is_large else [self.read(file, schema)]
                yield from ((file, rows) for rows in parts)
            return
        most_bytes = BYTES_AHEAD if any(name.startswith("metadata") for name in schema.names) else math.inf
        ahead: deque[tuple[DataFile, Future[pa.Table]]] = deque()
        with ThreadPoolExecutor(FILES_AHEAD, thread_name_prefix="files") as pool:
            try:
                for file in files:
                    size = file.size_bytes + sum(each.size_bytes for each, _ in ahead)
                    while ahead and (len(ahead) >= FILES_AHEAD or size > most_bytes):
                        first, rows = ahead.popleft()
                        size -= first.size_bytes
                        yield first, rows.result()
                    ahead.append((file, pool.submit(self.read, file, schema)))
                while ahead:
                    first, rows = ahead.popleft()
                    yield first, rows.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def stream(self, file: DataFile, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield a file's rows in tables of a bounded number of rows: a file that others compacted may be large."""
        buffer_size, pre_buffer = (STREAMED_BYTES, False) if file.is_large else (0, not self._storage.is_local)
        with self._open(file, buffer_size=buffer_size, pre_buffer=pre_buffer) as content:
            present = [name for name in schema.names if name in content.schema_arrow.names]
            batches = content.iter_batches(_count_batch(content.metadata), columns=present, use_threads=False)
            while (batch := next(batches, None)) is not None:
                yield self._fit(pa.Table.from_batches([batch]), file, schema)

    def write_each(self, tables: Iterable[pa.Table], *, data_change: bool = True) -> Iterator[AddAction]:
        """Write rows that come in parts into files of a bounded size; yield the log's action for each file.

        Memory holds the rows of one file at a time.
        """
        held: list[pa.Table] = []
        for rows in tables:
            ahead = [*held, rows]
            if held and _is_more_than_a_file(ahead):
                yield from self.write(pa.concat_tables(held), data_change=data_change)
                held = []
            held.append(rows)
        if held:
            yield from self.write(pa.concat_tables(held), data_change=data_change)

    def write(self, rows: pa.Table, *, data_change: bool = True) -> Iterator[AddAction]:
        """Write rows in their order into files of a bounded size; yield the log's action for each file.

        Args:
            rows: any number of rows.
            data_change: False for rows that the table had before.
        """
        if not len(rows):
            return
        row_bytes = max(1, rows.nbytes // len(rows))
        step = max(1, min(parquet.ROWS_PER_FILE, parquet.BYTES_PER_FILE // row_bytes))
        parts = -(-len(rows) // step)
        edges = [len(rows) * part // parts for part in range(parts + 1)]
        contents = [partial(parquet.encode, rows.slice(start, end - start)) for start, end in pairwise(edges)]
        yield from self._write_all(contents, data_change)

    def store(self, contents: Sequence[pa.Buffer]) -> Iterator[AddAction]:
        """Write Parquet contents that were encoded already, one file each; yield the log's action for each file."""
        yield from self._write_all([partial(pa.py_buffer, content) for content in contents], True)

    def _write_all(self, contents: Sequence[Callable[[], pa.Buffer]], data_change: bool) -> Iterator[AddAction]:
        with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
            write_all = pool.map if len(contents) > 1 else map
            yield from write_all(lambda content: self._write_file(content(), data_change), contents)

    def read_footer(self, file: DataFile) -> pq.FileMetaData:
        """Return a file's Parquet footer."""
        with self._open(file) as content:
            return content.metadata

    @contextmanager
    def _open(self, file: DataFile, **options: Any) -> Iterator[pq.ParquetFile]:
        """Open a file with options of `pyarrow.parquet.ParquetFile`; storage's refusals are raised as ours."""
        with self.explained("read"):
            source = self._storage.open_file(self._store, self._path, file.name, file.size_bytes)
            with pq.ParquetFile(source, coerce_int96_timestamp_unit=INT96_UNIT, **options) as content:
                yield content

    def read_row_count_and_bytes(self, file: DataFile) -> tuple[int, int]:
        """Return a file's number of rows and their approximate size in memory in bytes, from its footer."""
        footer = self.read_footer(file)
        return footer.num_rows, sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))

    def count_rows(self, files: Sequence[DataFile]) -> Sequence[DataFile]:
        """Return the files, with the number of rows taken from the footer where the log has none.

        Each footer is read once: it takes several requests of an account, and later versions have most of the files.
        """
        uncounted = [file for file in files if file.rows == UNCOUNTED and file.name not in self._counted]
        if uncounted:
            with ThreadPoolExecutor() as pool:
                counts = pool.map(lambda file: self.read_row_count_and_bytes(file)[0], uncounted)
                self._counted.update(zip((file.name for file in uncounted), counts, strict=True))
        if not self._counted:
            return files
        return [replace(file, rows=self._counted[file.name]) if file.rows == UNCOUNTED else file for file in files]

    def stored(self, folder: str | None = None) -> Sequence[StoredFile]:
        """Return the files that lie directly in a folder, subfolders not included.

        Args:
            folder: relative to the table's folder; None for the folder of these files.
        """
        with self.explained("list"):
            found = obstore.list_with_delimiter(self._store, folder or self.scope.folder or None)["objects"]
        return [StoredFile(each["path"], each["size"], each["last_modified"]) for each in found]

    def stored_torn(self) -> Sequence[StoredFile]:
        """Return unfinished files that killed writers left behind; only local folders can have such files."""
        if not self._storage.is_local:
            return []
        root = Path(self.uri)
        found = [
            (path, path.stat())
            for where in (root / self.scope.folder, root / "_delta_log")
            for path in where.glob("*#[0-9]*")
        ]
        return [
            StoredFile(str(path.relative_to(root)), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
            for path, stat in found
        ]

    def delete_torn(self, files: Sequence[StoredFile]) -> None:
        """Delete unfinished files from a local folder; obstore does not see them."""
        with self.explained("delete files from"):
            for file in files:
                Path(self.uri, file.name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Return whether the table's folder, or a folder below, has a file of this name."""
        return self.stamp(name) is not None

    def stamp(self, name: str) -> Stamp | None:
        """Return the stamp that distinguishes a file from others of the same name; None where no file is there."""
        with self.explained("read"):
            try:
                found = obstore.head(self._store, name)
            except FileNotFoundError:
                return None
        return found["e_tag"], found["last_modified"], found["size"]

    def list_names(self) -> set[str]:
        """Return the names of all files in the table's folder and below, whether the table has them or not."""
        with self.explained("list"):
            return {entry["path"] for entries in obstore.list(self._store) for entry in entries}

    def read_aside(self, name: str) -> bytes | None:
        """Return the content of a file beside the table's data files; None where no file is there."""
        with self.explained("read"):
            try:
                return obstore.get(self._store, name).bytes().to_bytes()
            except FileNotFoundError:
                return None

    def write_aside(self, name: str, content: bytes) -> None:
        """Write or replace a file beside the table's data files."""
        with self.explained("write"):
            obstore.put(self._store, name, content)

    def create(self, name: str, content: bytes, *, doing: str = "commit to") -> None:
        """Create a file of the log, unless another writer created it first.

        An existing file with equal content counts as created: the answer to an earlier try got lost.

        Raises:
            CommitFailedError: another writer created the file.
        """
        with self.explained(doing):
            try:
                obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                if self.read_aside(name) != content:
                    raise CommitFailedError(f"{name} is another writer's") from None

    def delete(self, names: Sequence[str]) -> None:
        """Delete files that the table does not need; some may be gone already."""
        with self.explained("delete files from"), ThreadPoolExecutor() as pool:
            list(pool.map(self._delete_file, names))

    def _delete_file(self, name: str) -> None:
        with suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def _write_file(self, content: pa.Buffer, data_change: bool) -> AddAction:
        """Store a file; return the log's action for it."""
        name = f"{self.scope.folder}part-{uuid.uuid4()}.parquet"
        with self.explained("write"):
            obstore.put(self._store, name, content.to_pybytes())
        statistics = json.dumps(parquet.read_statistics(content), allow_nan=False)
        added_at = int(time.time() * 1000)
        return AddAction(name, content.size, self.scope.partition, added_at, data_change, statistics)


def _is_more_than_a_file(parts: Sequence[pa.Table]) -> bool:
    return sum(map(len, parts)) > parquet.ROWS_PER_FILE or sum(rows.nbytes for rows in parts) > parquet.BYTES_PER_FILE


def _count_batch(footer: pq.FileMetaData) -> int:
    """Return how many of a file's rows are read at once."""
    groups = (footer.row_group(place) for place in range(footer.num_row_groups))
    row_bytes = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(parquet.ROWS_PER_FILE, STREAMED_ROWS, int(parquet.BYTES_PER_FILE / max(1, row_bytes))))
