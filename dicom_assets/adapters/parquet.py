"""The Parquet files of a Delta table: written with their statistics, read with the columns that are wanted."""

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

from dicom_assets.adapters.commit import encode_path
from dicom_assets.adapters.decoded import Decoded
from dicom_assets.adapters.storage import Storage
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.core.merge import Desired, align_rows
from dicom_assets.core.schema import SERVICE

ROWS_PER_FILE = 20_000
"""About an hour of a large hospital: what a merge rewrites when it touches one row."""
BYTES_PER_FILE = 64 * 2**20
"""Size of a file's rows in memory, at most; on disk a tenth of it or so."""

CONCURRENT_FILES = 2
"""Files that are written at the same time: each is a core's work, and holds its rows once more while it is."""

FILES_AHEAD = 4
"""Files of an account that are read at a time: each takes some answers, one after the other."""
BYTES_AHEAD = 4 * 2**20
"""Their size on disk, at most, where metadata is read too, which takes ten times that in memory or more."""

STREAMED_ROWS = 5000
"""Of a large file that are read at once."""
STREAMED_BYTES = 2**20
"""Of each column of a large file that are held as they are stored, while it is read in parts."""

JOINED_FILES = 8
"""Small files that are joined, at least: an hour of a small hospital is a file, and files cost every run."""
JOINED_AT_ONCE = 64
"""Small files that a write joins, at most: where very many lie, each write does a part, and upkeep the rest."""
JOINED_BYTES = 4 * 2**20
"""Size on disk of files that are joined, at most."""
MOVED_ROWS = 1000
"""So few cost next to nothing: a file with no more is joined with whatever lies beside it."""

CALENDAR_KEY = "org.apache.spark.version"
CALENDAR = {CALENDAR_KEY: "4.0.0"}
"""Key and value in the footer of each file, by which Spark 3 knows that dates are of the proleptic Gregorian calendar.

Spark 3.0 to 3.5 refuse dates before 1582-10-15, and times before 1900, in a file without the key, since it may be of
Spark 2.4 and its Julian calendar. With a version from 3.0.0 on (for INT96 3.1.0; compared as text) and without the keys
of its legacy mode, they take the values as they are; Spark 4 does so in any file. No other reader asks for the key.
Source: `getRebaseSpec` in Spark's `org.apache.spark.sql.execution.datasources.DataSourceUtils`, release 3.5.
"""

INT96_UNIT = "us"
"""How times are read that are stored as INT96, as Spark does by itself: in nanoseconds they would end with 1677."""


UNCOUNTED = -1


@dataclass(frozen=True)
class DataFile:
    """A live file of a table, as its log tells."""

    name: str
    size_bytes: int
    rows: int
    """`UNCOUNTED` where the log does not tell, as of files that others wrote without statistics."""
    ranges: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Least and greatest value by column, where the log has them."""
    written_at: int = 0
    """Milliseconds since 1970."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """In a table of several services the one whose rows it has, by the column's name."""
    path: str = ""
    """Its name as the log has it: encoded, by whoever wrote it."""

    def may_hold(self, column: str, least: object, greatest: object) -> bool:
        """Whether a value between the two, both included, can be in the file; true where the log does not tell."""
        low, high = self.ranges.get(column, (None, None))
        return (low is None or low <= greatest) and (high is None or high >= least)

    @property
    def is_large(self) -> bool:
        """Whether it is of another engine, and may hold more than is read at once."""
        return self.rows > 2 * ROWS_PER_FILE or self.rows == UNCOUNTED or self.size_bytes > BYTES_PER_FILE

    def removal(self, *, data_change: bool = True) -> RemoveAction:
        """The log's action that takes the file out of the table; no change of data where its rows stay elsewhere."""
        path = self.path or encode_path(self.name)
        return RemoveAction(path, data_change, int(time.time() * 1000), self.size_bytes, self.partition)


@dataclass(frozen=True)
class StoredFile:
    """A file in a table's folder, whoever put it there."""

    name: str
    size_bytes: int
    modified: datetime


Stamp = tuple[str | None, datetime, int]
"""Of a file: its ETag, time and size. Another file of the same name has another one."""


class Files:
    """The files in a table's folder; of a table of several services those of one, in a folder below."""

    def __init__(self, storage: Storage, path: str, decoded: Decoded | None = None, service: str | None = None) -> None:
        self.service = service
        """Whose files these are, where the table is of several."""
        self._partition = {} if service is None else {SERVICE.name: service}
        self._below = "".join(f"{name}={value}/" for name, value in self._partition.items())
        self._storage = storage
        self._path = path
        self._decoded = decoded or Decoded()
        self._store = storage.open_store(path)
        self._counted: dict[str, int] = {}

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Storage's refusals inside become a LakeUnavailableError that says what was being done to the table."""
        return self._storage.explained(self._path, doing)

    def read(self, file: DataFile, schema: pa.Schema, *, dictionaries: Sequence[str] = ()) -> pa.Table:
        """The file's rows in the schema's columns; null for a column that the file is too old to have.

        Args:
            file: of the table.
            schema: the columns wanted.
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
            ForeignTableError: the file has values that do not fit. They are not told: they may be a patient's.
        """
        try:
            return align_rows(rows, schema)
        except pa.ArrowException as error:
            raise ForeignTableError(
                f"The file {file.name} of {self._storage.uri(self._path)} has values that do not fit the types of the "
                f"table's columns ({type(error).__name__}), so another engine wrote it. Nothing was written. Restore "
                "the version before it came (RESTORE TABLE, in Spark), or take its rows out."
            ) from None

    def read_each(self, files: Iterable[DataFile], schema: pa.Schema) -> Iterator[tuple[DataFile, pa.Table]]:
        """Read several files, in their order; those of an account ahead, and large ones in parts."""
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
        """Read a file's rows in tables of a bounded number: files that others compacted may be large."""
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
        """Write rows that come in parts, as files of a bounded size, and hold those of one file at a time."""
        held: list[pa.Table] = []
        for rows in tables:
            ahead = [*held, rows]
            if held and _is_more_than_a_file(ahead):
                yield from self.write(pa.concat_tables(held), data_change=data_change)
                held = []
            held.append(rows)
        if held:
            yield from self.write(pa.concat_tables(held), data_change=data_change)

    def write(
        self, rows: pa.Table, *, attributes: pa.Table | None = None, data_change: bool = True
    ) -> Iterator[AddAction]:
        """Writes the rows in their order, as files of a bounded size; gives the log's action for each.

        Args:
            rows: any number of them.
            attributes: what their metadata says, row beside row, kept in memory for the files' next readers.
            data_change: False for rows that the table had before.
        """
        if not len(rows):
            return
        row_bytes = max(1, rows.nbytes // len(rows))
        step = max(1, min(ROWS_PER_FILE, BYTES_PER_FILE // row_bytes))
        parts = -(-len(rows) // step)
        edges = [len(rows) * part // parts for part in range(parts + 1)]
        contents = [partial(_encode, rows.slice(start, end - start)) for start, end in pairwise(edges)]
        yield from self._store_all(contents, attributes, data_change)

    def store(self, encoded: Sequence[pa.Buffer], *, attributes: pa.Table | None = None) -> Iterator[AddAction]:
        """The same for rows that were encoded already: each content becomes a file."""
        yield from self._store_all([partial(_given, content) for content in encoded], attributes, True)

    def _store_all(
        self, contents: Sequence[Callable[[], pa.Buffer]], attributes: pa.Table | None, data_change: bool
    ) -> Iterator[AddAction]:
        start = 0
        with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
            store_all = pool.map if len(contents) > 1 else map
            for action, rows in store_all(lambda content: self._write_file(content(), data_change), contents):
                if attributes is not None:
                    self._decoded.keep(action.path, attributes.slice(start, rows))
                start += rows
                yield action

    def attributes_of(self, file: DataFile, schema: pa.Schema) -> pa.Table | None:
        """What the metadata of the file's rows says, row beside row; None where it has to be read for that."""
        return self._decoded.find(file.name, schema)

    def read_footer(self, file: DataFile) -> pq.FileMetaData:
        """Return what the file says of itself."""
        with self.explained("read"):
            source = self._storage.open_file(self._store, self._path, file.name, file.size_bytes)
            with pq.ParquetFile(source) as parquet:
                return parquet.metadata

    def weigh(self, file: DataFile) -> tuple[int, int]:
        """Rows of a file and about their size in memory, from its footer."""
        footer = self.read_footer(file)
        return footer.num_rows, sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))

    def count_rows(self, files: Sequence[DataFile]) -> Sequence[DataFile]:
        """Return the files, with the number of rows from the footer where the log does not tell it."""
        uncounted = [file for file in files if file.rows == UNCOUNTED and file.name not in self._counted]
        if uncounted:
            with ThreadPoolExecutor() as pool:
                counts = pool.map(lambda file: self.weigh(file)[0], uncounted)
                self._counted.update(zip((file.name for file in uncounted), counts, strict=True))
        if not self._counted:
            return files
        return [replace(file, rows=self._counted[file.name]) if file.rows == UNCOUNTED else file for file in files]

    def owns(self, name: str) -> bool:
        """Whether a file of the table is one of these, by its name."""
        return name.startswith(self._below)

    def stored(self, folder: str | None = None) -> Sequence[StoredFile]:
        """What lies in the folder of these files, or in one of the table's; not what lies deeper."""
        with self.explained("list"):
            found = obstore.list_with_delimiter(self._store, folder or self._below or None)["objects"]
        return [StoredFile(each["path"], each["size"], each["last_modified"]) for each in found]

    def stored_torn(self) -> Sequence[StoredFile]:
        """What writers that were killed left of files they had not finished; in a local folder alone, nowhere else."""
        if not self._storage.is_local:
            return []
        root = Path(self._storage.uri(self._path))
        found = [
            (path, path.stat())
            for where in (root / self._below, root / "_delta_log")
            for path in where.glob("*#[0-9]*")
        ]
        return [
            StoredFile(str(path.relative_to(root)), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
            for path, stat in found
        ]

    def delete_torn(self, files: Sequence[StoredFile]) -> None:
        """Deletes some of them, which obstore does not see."""
        with self.explained("delete files from"):
            for file in files:
                Path(self._storage.uri(self._path), file.name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether a file of this name lies in the folder or below."""
        return self.stamp(name) is not None

    def stamp(self, name: str) -> Stamp | None:
        """What tells a file from another of the same name; None where there is none."""
        with self.explained("read"):
            try:
                found = obstore.head(self._store, name)
            except FileNotFoundError:
                return None
        return found["e_tag"], found["last_modified"], found["size"]

    def list_names(self, below: str | None = None) -> Iterator[tuple[str, datetime]]:
        """The files in the folder, or in one below it, whether the table has them or not; with the time of storing."""
        with self._storage.explained(self._path, "list"):
            for entries in obstore.list(self._store, below):
                yield from ((entry["path"], entry["last_modified"]) for entry in entries)

    def read_aside(self, name: str) -> bytes | None:
        """A file that lies beside the table's own; None where there is none."""
        with self.explained("read"):
            try:
                return obstore.get(self._store, name).bytes().to_bytes()
            except FileNotFoundError:
                return None

    def write_aside(self, name: str, content: bytes) -> None:
        """Writes or replaces a file that lies beside the table's own."""
        with self.explained("write"):
            obstore.put(self._store, name, content)

    def create(self, name: str, content: bytes, *, doing: str = "commit to") -> None:
        """Write a file of the log, unless another writer's is there.

        Where the answer to a first try got lost, the file that is there is the one to be written.

        Raises:
            CommitFailedError: another writer's is there.
        """
        with self.explained(doing):
            try:
                obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                if self.read_aside(name) != content:
                    raise CommitFailedError(f"{name} is another writer's") from None

    def delete(self, names: Sequence[str]) -> None:
        """Deletes files that the table does not need; some may be gone already."""
        with self.explained("delete files from"), ThreadPoolExecutor() as pool:
            list(pool.map(self._delete_file, names))

    def _delete_file(self, name: str) -> None:
        with suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def _write_file(self, content: pa.Buffer, data_change: bool) -> tuple[AddAction, int]:
        """Stores a file; the log's action for it, and its number of rows."""
        name = f"{self._below}part-{uuid.uuid4()}.parquet"
        with self.explained("write"):
            obstore.put(self._store, name, content.to_pybytes())
        footer = pq.read_metadata(pa.BufferReader(content))
        columns = columns_with_statistics(footer.schema.to_arrow_schema())
        unordered = _find_nan(content, footer.schema.to_arrow_schema())
        statistics = json.dumps(_statistics(footer, columns, unordered), allow_nan=False)
        added_at = int(time.time() * 1000)
        return AddAction(name, content.size, self._partition, added_at, data_change, statistics), footer.num_rows


class Spool:
    """Rows on their way into files, encoded as they come: an hour's metadata is never held as text."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._contents: list[pa.Buffer] = []
        self._sink: pa.BufferOutputStream | None = None
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Adds rows; some thousand at a time, since each call makes a group of them in a file."""
        if self._rows + len(rows) > ROWS_PER_FILE or self._bytes + rows.nbytes > BYTES_PER_FILE:
            self._close()
        if self._writer is None:
            self._sink = pa.BufferOutputStream()
            self._writer = open_writer(self._sink, self._schema, compression_level=1)
        self._writer.write_table(rows, row_group_size=len(rows))
        self._rows += len(rows)
        self._bytes += rows.nbytes

    def take(self) -> list[pa.Buffer]:
        """The files' contents, with all rows in the order in which they came. No more can be added."""
        self._close()
        return self._contents

    def _close(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._contents.append(self._sink.getvalue())
        self._sink = self._writer = None
        self._rows = self._bytes = 0


def decode(desired: Desired) -> Desired:
    """The same with rows that lack no column."""
    if not desired.encoded:
        return desired
    rows = pa.concat_tables([pq.read_table(pa.BufferReader(content)) for content in desired.encoded])
    return replace(desired, rows=rows, encoded=())


def group_small_files(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files to be joined, each group into about one: small ones written after one another, enough to be worth it."""
    groups: list[list[DataFile]] = [[]]
    for file in sorted(files, key=lambda file: file.written_at):
        group = [*groups[-1], file]
        if sum(each.rows for each in group) > ROWS_PER_FILE or sum(each.size_bytes for each in group) > JOINED_BYTES:
            groups.append([file])
        else:
            groups[-1] = group
    return [group for group in map(_without_large, groups) if len(group) >= JOINED_FILES]


def _without_large(group: Sequence[DataFile]) -> list[DataFile]:
    """The group without large files that are larger than all smaller ones together: many rows would move for few.

    A row is moved once for each doubling of its file, and what is new, which most corrections are about, stays in small
    files.
    """
    by_size = sorted(group, key=lambda file: file.rows)
    while by_size and by_size[-1].rows > max(MOVED_ROWS, sum(file.rows for file in by_size[:-1])):
        by_size.pop()
    kept = {file.name for file in by_size}
    return [file for file in group if file.name in kept]


def columns_with_statistics(schema: pa.Schema) -> list[str]:
    """The columns whose least and greatest values the log holds: UIDs, numbers and times, never another text.

    The table must name them to its readers: some take a column without a range for one that holds nothing.
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


def _given(content: pa.Buffer) -> pa.Buffer:
    return content


def open_writer(
    sink: pa.BufferOutputStream | IO[bytes], schema: pa.Schema, compression_level: int | None = None
) -> pq.ParquetWriter:
    """Return a writer of a file that all readers of the lake understand."""
    writer = pq.ParquetWriter(sink, schema, compression="zstd", compression_level=compression_level)
    writer.add_key_value_metadata(CALENDAR)
    return writer


def _find_nan(content: pa.Buffer, schema: pa.Schema) -> set[str]:
    """Return the columns with a value that is no number, which Parquet's own ranges pass over."""
    floating = [field.name for field in schema if pa.types.is_floating(field.type)]
    if not floating:
        return set()
    rows = pq.read_table(pa.BufferReader(content), columns=floating)
    return {name for name in floating if pc.any(pc.is_nan(rows[name])).as_py()}


def _statistics(metadata: pq.FileMetaData, columns: Sequence[str], unordered: AbstractSet[str]) -> dict[str, Any]:
    """Return the log's statistics of a file.

    Args:
        metadata: of the file.
        columns: to have them.
        unordered: columns with values that are no numbers; engines take these for greater than any.
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
        return "Infinity" if value > 0 else "-Infinity"  # as Delta on Spark writes it: JSON has no infinity
    return value if isinstance(value, int | float | str) else str(value)
