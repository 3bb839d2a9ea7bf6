"""Parquet files of a Delta table: written together with their statistics, read column by column as requested."""

import json
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction
from obstore.exceptions import AlreadyExistsError

from dicom_assets.core.errors import ForeignTableError
from dicom_assets.core.tables.merge import Desired, align_rows
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.commit import encode_path
from dicom_assets.lake.table.scope import WHOLE_TABLE, Scope

ROWS_PER_FILE = 20_000
"""Rows per file, at most: about one hour of a large hospital. A merge that touches one row rewrites its whole file."""
BYTES_PER_FILE = 64 * 2**20
"""Size of a file's rows in memory, at most; on disk about a tenth of this."""

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

JOINED_FILES = 8
"""Small files that are joined, at least: each hour of a small hospital is one file, and every file costs every run."""
JOINED_AT_ONCE = 64
"""Small files that one write joins, at most: of very many files each write joins a part, and upkeep joins the rest."""
JOINED_BYTES = 4 * 2**20
"""Size on disk of the files that are joined into one, at most."""
MOVED_ROWS = 1000
"""Rows of a file that is joined with any other small file: to move so few rows costs next to nothing."""

CALENDAR_KEY = "org.apache.spark.version"
CALENDAR = {CALENDAR_KEY: "4.0.0"}
"""Key and value in each file's footer that tell Spark 3 that dates follow the proleptic Gregorian calendar.

In a file without the key, Spark 3.0 to 3.5 refuse dates before 1582-10-15 and times before 1900, since Spark 2.4 may
have written the file in its Julian calendar. Where the key's value is 3.0.0 or later (for INT96 3.1.0; compared as
text), and the keys of the legacy mode are absent, they read the values unchanged; Spark 4 does so in any file. No other
reader looks at the key.
Source: `getRebaseSpec` in Spark's `org.apache.spark.sql.execution.datasources.DataSourceUtils`, release 3.5.
"""

INT96_UNIT = "us"
"""Unit in which INT96 timestamps are read; Spark stores times as INT96 by default. In nanoseconds the earliest time
would lie in 1677."""


UNCOUNTED = -1
"""`DataFile.rows` of a file whose number of rows is not in the log."""


@dataclass(frozen=True)
class DataFile:
    """Live file of a table, as described in the table's log."""

    name: str
    size_bytes: int
    rows: int
    """Number of rows; `UNCOUNTED` where the log has none, as for files that others wrote without statistics."""
    ranges: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Least and greatest value by column, where the log has them."""
    written_at: int = 0
    """Time of writing, in milliseconds since 1970."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """Partition value by column name: in a table that several services share, the service whose rows the file has."""
    path: str = ""
    """Name in the log, URL-encoded as its writer encoded it."""

    def may_hold(self, column: str | None, least: object, greatest: object) -> bool:
        """Return whether the file can hold a value from `least` to `greatest`, both included.

        Without a range in the log the answer is True.
        """
        low, high = self.ranges.get(column or "", (None, None))
        return (low is None or low <= greatest) and (high is None or high >= least)

    @property
    def is_large(self) -> bool:
        """Whether the file may hold more than is read at once, as files of other engines may."""
        return self.rows > 2 * ROWS_PER_FILE or self.rows == UNCOUNTED or self.size_bytes > BYTES_PER_FILE

    def removal(self, *, data_change: bool = True) -> RemoveAction:
        """Return the log's action that removes the file from the table.

        Args:
            data_change: False where the file's rows stay in the table, in other files.
        """
        path = self.path or encode_path(self.name)
        return RemoveAction(path, data_change, int(time.time() * 1000), self.size_bytes, self.partition)


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
        with self.explained("read"):
            source = self._storage.open_file(self._store, self._path, file.name, file.size_bytes)
            with pq.ParquetFile(
                source,
                read_dictionary=list(dictionaries),
                pre_buffer=not self._storage.is_local,
                coerce_int96_timestamp_unit=INT96_UNIT,
            ) as parquet:
                present = set(parquet.schema_arrow.names)
                rows = parquet.read([name for name in schema.names if name in present], use_threads=False)
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
        with self.explained("read"):
            source = self._storage.open_file(self._store, self._path, file.name, file.size_bytes)
            with pq.ParquetFile(
                source,
                buffer_size=STREAMED_BYTES if file.is_large else 0,
                pre_buffer=not (self._storage.is_local or file.is_large),
                coerce_int96_timestamp_unit=INT96_UNIT,
            ) as parquet:
                present = [name for name in schema.names if name in parquet.schema_arrow.names]
                batches = parquet.iter_batches(_count_batch(parquet.metadata), columns=present, use_threads=False)
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
        step = max(1, min(ROWS_PER_FILE, BYTES_PER_FILE // row_bytes))
        parts = -(-len(rows) // step)
        edges = [len(rows) * part // parts for part in range(parts + 1)]
        contents = [partial(_encode, rows.slice(start, end - start)) for start, end in pairwise(edges)]
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
        with self.explained("read"):
            source = self._storage.open_file(self._store, self._path, file.name, file.size_bytes)
            with pq.ParquetFile(source) as parquet:
                return parquet.metadata

    def read_row_count_and_bytes(self, file: DataFile) -> tuple[int, int]:
        """Return a file's number of rows and their approximate size in memory in bytes, from its footer."""
        footer = self.read_footer(file)
        return footer.num_rows, sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))

    def count_rows(self, files: Sequence[DataFile]) -> Sequence[DataFile]:
        """Return the files, with the number of rows taken from the footer where the log has none."""
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

    def list_names(self, below: str | None = None) -> Iterator[tuple[str, datetime]]:
        """Yield name and time of storing of every file in the table's folder, whether the table has it or not.

        Args:
            below: subfolder to list instead.
        """
        with self._storage.explained(self._path, "list"):
            for entries in obstore.list(self._store, below):
                yield from ((entry["path"], entry["last_modified"]) for entry in entries)

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
        footer = pq.read_metadata(pa.BufferReader(content))
        columns = columns_with_statistics(footer.schema.to_arrow_schema())
        unordered = _find_nan(content, footer.schema.to_arrow_schema())
        statistics = json.dumps(_statistics(footer, columns, unordered), allow_nan=False)
        added_at = int(time.time() * 1000)
        return AddAction(name, content.size, self.scope.partition, added_at, data_change, statistics)


class Spool:
    """Buffer that encodes rows into Parquet files as they come, so that an hour's metadata is never held as text."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._contents: list[pa.Buffer] = []
        self._sink: pa.BufferOutputStream | None = None
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows; several thousand at a time, since each call makes one row group of a file."""
        if self._rows + len(rows) > ROWS_PER_FILE or self._bytes + rows.nbytes > BYTES_PER_FILE:
            self._close()
        if self._writer is None:
            self._sink = pa.BufferOutputStream()
            self._writer = open_writer(self._sink, self._schema, compression_level=1)
        self._writer.write_table(rows, row_group_size=len(rows))
        self._rows += len(rows)
        self._bytes += rows.nbytes

    def take(self) -> list[pa.Buffer]:
        """Return the files' contents, with all rows in the order of adding. No rows can be added afterwards."""
        self._close()
        return self._contents

    def _close(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._contents.append(self._sink.getvalue())
        self._sink = self._writer = None
        self._rows = self._bytes = 0


@dataclass(frozen=True)
class EncodedRows:
    """Rows that a table must have, encoded as Parquet files already, so that their texts are not in memory."""

    keys: pa.Table
    """The keys of the rows, each once and in the order of the rows, in the columns `Table.merge_columns`."""
    contents: Sequence[pa.Buffer]
    """Contents of the files."""
    attributes: pa.Table | None = None
    """Attributes decoded from the rows' metadata, in the order of the rows; None if not decoded yet."""

    def decode(self) -> Desired:
        """Return the rows as an Arrow table."""
        rows = pa.concat_tables([pq.read_table(pa.BufferReader(content)) for content in self.contents])
        return Desired(self.keys, rows, self.attributes)


def decode(desired: Desired | EncodedRows) -> Desired:
    """Return the desired rows as an Arrow table, also if they are encoded."""
    return desired.decode() if isinstance(desired, EncodedRows) else desired


def group_small_files(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Return groups of small files that were written one after another; each group is to be joined into about one file.

    A group has at least JOINED_FILES files; smaller groups are not worth a commit.
    """
    groups: list[list[DataFile]] = [[]]
    for file in sorted(files, key=lambda file: file.written_at):
        group = [*groups[-1], file]
        if sum(each.rows for each in group) > ROWS_PER_FILE or sum(each.size_bytes for each in group) > JOINED_BYTES:
            groups.append([file])
        else:
            groups[-1] = group
    return [group for group in map(_without_large, groups) if len(group) >= JOINED_FILES]


def _without_large(group: Sequence[DataFile]) -> list[DataFile]:
    """Return the group without files that have more rows than all smaller ones together: many rows would move for few.

    So a row is moved once for each doubling of its file, and new rows, which most corrections concern, stay in small
    files. Files of up to MOVED_ROWS rows always remain in the group.
    """
    by_size = sorted(group, key=lambda file: file.rows)
    while by_size and by_size[-1].rows > max(MOVED_ROWS, sum(file.rows for file in by_size[:-1])):
        by_size.pop()
    kept = {file.name for file in by_size}
    return [file for file in group if file.name in kept]


def columns_with_statistics(schema: pa.Schema) -> list[str]:
    """Return the columns whose least and greatest values the log holds: UIDs, numbers and times, never other texts.

    The table must name these columns to its readers: some take a column without a range for an empty one.
    """
    return [
        field.name
        for field in schema
        if (
            not (pa.types.is_string(field.type) or pa.types.is_nested(field.type) or pa.types.is_boolean(field.type))
            and not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
        )
        or field.name.lower().endswith("instanceuid")
    ]


def _is_more_than_a_file(parts: Sequence[pa.Table]) -> bool:
    return sum(map(len, parts)) > ROWS_PER_FILE or sum(rows.nbytes for rows in parts) > BYTES_PER_FILE


def _count_batch(footer: pq.FileMetaData) -> int:
    """Return how many of a file's rows are read at once."""
    groups = (footer.row_group(place) for place in range(footer.num_row_groups))
    row_bytes = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(ROWS_PER_FILE, STREAMED_ROWS, int(BYTES_PER_FILE / max(1, row_bytes))))


def _encode(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with open_writer(sink, rows.schema, compression_level=1) as writer:
        writer.write_table(rows, row_group_size=len(rows))
    return sink.getvalue()


def open_writer(
    sink: pa.BufferOutputStream | IO[bytes], schema: pa.Schema, compression_level: int | None = None
) -> pq.ParquetWriter:
    """Open a writer of a Parquet file that all readers of the lake understand."""
    writer = pq.ParquetWriter(sink, schema, compression="zstd", compression_level=compression_level)
    writer.add_key_value_metadata(CALENDAR)
    return writer


def _find_nan(content: pa.Buffer, schema: pa.Schema) -> set[str]:
    """Return the columns that have a NaN, which Parquet's own ranges leave out."""
    floating = [field.name for field in schema if pa.types.is_floating(field.type)]
    if not floating:
        return set()
    rows = pq.read_table(pa.BufferReader(content), columns=floating)
    return {name for name in floating if pc.any(pc.is_nan(rows[name])).as_py()}


def _statistics(metadata: pq.FileMetaData, columns: Sequence[str], unordered: AbstractSet[str]) -> dict[str, Any]:
    """Return the log's statistics of a file.

    Args:
        metadata: footer of the file.
        columns: columns that get statistics.
        unordered: columns with a NaN; engines order NaN above every number.
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    for place in range(metadata.num_columns):
        name = metadata.schema.column(place).path
        if name not in columns:
            continue
        of_groups = [group.column(place).statistics for group in groups]
        nulls[name] = sum(statistics.null_count for statistics in of_groups)
        ranges = [statistics for statistics in of_groups if statistics.has_min_max]
        if ranges and all(statistics.has_min_max or not statistics.num_values for statistics in of_groups):
            least[name] = _statistic(min(statistics.min for statistics in ranges))
            end = math.inf if name in unordered else max(statistics.max for statistics in ranges)
            greatest[name] = _statistic(end)
    return {"numRecords": metadata.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}


def _statistic(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # Delta on Spark writes these texts: JSON has no infinity
    return value if isinstance(value, int | float | str) else str(value)
