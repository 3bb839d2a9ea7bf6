"""Output of rows as CSV, JSON, JSON Lines or Parquet, as a stream to a file or to standard output."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dicom_assets.core.errors import LakeQueryError, SettingsError
from dicom_assets.lake.files.parquet import open_writer
from dicom_assets.query.formats import Format

_BYTES_PER_GROUP = 64 * 2**20
"""Size in memory from which on rows are written as a row group of Parquet."""


class _Writer(Protocol):
    def write(self, batch: pa.RecordBatch) -> None: ...


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open standard output, or a file that is created or replaced only if the block ends without an error.

    Args:
        path: path of the file; None for standard output.

    Raises:
        SettingsError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        stream = partial.open("wb")
    except OSError as error:
        raise SettingsError(f"Cannot write {path}: {error.strerror}. Choose another file for --output.") from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, kind: Format, sink: IO[bytes], *, count_by: str | None = None
) -> "Counter[str]":
    """Write rows as a stream, and count them.

    Args:
        batches: rows.
        schema: schema of the rows.
        kind: output format; not `table`.
        sink: open binary stream, which stays open.
        count_by: name of a text column; rows are counted by its values. By default all rows count under "rows".

    Returns:
        The number of rows, by value of `count_by`.

    Raises:
        LakeQueryError: the format cannot represent the columns.
    """
    names = schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated and kind is not Format.CSV:
        raise LakeQueryError(
            f"More than one column is named {repeated[0]}. Give one another name: … AS {repeated[0]}2."
        )
    counts: Counter[str] = Counter()
    with _WRITERS[kind](sink, schema) as writer:
        for batch in batches:
            writer.write(batch)
            if count_by is None:
                counts["rows"] += len(batch)
            else:
                for each in batch[count_by].value_counts().to_pylist():
                    counts[each["values"]] += each["counts"]
    return counts


def to_json(value: object) -> str:
    """Return a value as JSON: times in ISO 8601, bytes in base64."""
    return msgspec.json.encode(value).decode()


class _Csv:
    def __init__(self, sink: IO[bytes], schema: pa.Schema) -> None:
        fields = [pa.field(field.name, pa.string() if _is_odd(field.type) else field.type) for field in schema]
        self._schema = pa.schema(fields)
        self._csv = pyarrow.csv.CSVWriter(sink, self._schema)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [
            pa.array([None if value is None else to_json(value) for value in column.to_pylist()], pa.string())
            if _is_odd(column.type)
            else column
            for column in batch.columns
        ]
        self._csv.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))


class _Json:
    """Writer of JSON, one row per line: the items of an array, or JSON Lines."""

    def __init__(self, sink: IO[bytes], *, lines: bool) -> None:
        self._sink, self._between, self._lines = sink, b"\n", lines
        self._encoder = msgspec.json.Encoder()

    def write(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            if self._lines:
                self._sink.write(self._encoder.encode(row) + b"\n")
            else:
                self._sink.write(self._between + self._encoder.encode(row))
                self._between = b",\n"


class _Parquet:
    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer, self._group = writer, list[pa.RecordBatch]()

    def write(self, batch: pa.RecordBatch) -> None:
        self._group.append(batch)
        if sum(each.nbytes for each in self._group) >= _BYTES_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._group:
            rows = pa.Table.from_batches(self._group)
            self._writer.write_table(rows, row_group_size=max(1, len(rows)))
            self._group = []


@contextmanager
def _csv(sink: IO[bytes], schema: pa.Schema) -> Iterator[_Writer]:
    yield _Csv(sink, schema)


@contextmanager
def _json(sink: IO[bytes], _: pa.Schema) -> Iterator[_Writer]:
    sink.write(b"[")
    yield _Json(sink, lines=False)
    sink.write(b"\n]\n")


@contextmanager
def _json_lines(sink: IO[bytes], _: pa.Schema) -> Iterator[_Writer]:
    yield _Json(sink, lines=True)


@contextmanager
def _parquet(sink: IO[bytes], schema: pa.Schema) -> Iterator[_Writer]:
    try:
        file = open_writer(sink, schema)
    except pa.ArrowNotImplementedError as error:
        raise LakeQueryError("Parquet has no place for such a column: cast intervals and the like to text.") from error
    with file:
        writer = _Parquet(file)
        yield writer
        writer.flush()


_WRITERS: dict[Format, Callable[[IO[bytes], pa.Schema], AbstractContextManager[_Writer]]] = {
    Format.CSV: _csv,
    Format.JSON: _json,
    Format.JSONL: _json_lines,
    Format.PARQUET: _parquet,
}


def _is_odd(kind: pa.DataType) -> bool:
    """Return whether CSV cannot represent a type, so that JSON text is written instead."""
    return bool(pa.types.is_nested(kind) or pa.types.is_interval(kind))
