"""Output of rows as CSV, JSON, JSON Lines or Parquet, as a stream to a file or to standard output."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.csv

from dicom_assets.core.columns.schema import type_names
from dicom_assets.core.errors import LakeQueryError, SettingsError
from dicom_assets.lake.files.parquet import open_writer
from dicom_assets.query.formats import Format

_BYTES_PER_GROUP = 64 * 2**20
"""Size in memory from which on rows are written as a row group of Parquet."""


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
    with _WRITERS[kind](sink, schema) as write:
        for batch in batches:
            write(batch)
            if count_by is None:
                counts["rows"] += len(batch)
            else:
                for each in batch[count_by].value_counts().to_pylist():
                    counts[each["values"]] += each["counts"]
    return counts


def name_type(kind: pa.DataType) -> str:
    """Return the name of a type in the documentation, or Arrow's name if the documentation has none."""
    return next((name for name, known in type_names.items() if known == kind), str(kind))


def to_json(value: object) -> str:
    """Return a value as JSON: times in ISO 8601, bytes in base64."""
    return msgspec.json.encode(value).decode()


_Write = Callable[[pa.RecordBatch], object]
"""Writes the rows of one batch."""


@contextmanager
def _write_csv(sink: IO[bytes], schema: pa.Schema) -> Iterator[_Write]:
    def convert(column: pa.Array) -> pa.Array:
        if not _is_odd(column.type):
            return column
        return pa.array([None if value is None else to_json(value) for value in column.to_pylist()], pa.string())

    plain = pa.schema([(field.name, pa.string() if _is_odd(field.type) else field.type) for field in schema])
    writer = pyarrow.csv.CSVWriter(sink, plain)
    yield lambda batch: writer.write_batch(
        pa.RecordBatch.from_arrays([convert(column) for column in batch.columns], schema=plain)
    )


@contextmanager
def _write_json(sink: IO[bytes], _: pa.Schema) -> Iterator[_Write]:
    encode, before = msgspec.json.Encoder().encode, b"\n"

    def write(batch: pa.RecordBatch) -> None:
        nonlocal before
        for row in batch.to_pylist():
            sink.write(before + encode(row))
            before = b",\n"

    sink.write(b"[")
    yield write
    sink.write(b"\n]\n")


@contextmanager
def _write_json_lines(sink: IO[bytes], _: pa.Schema) -> Iterator[_Write]:
    encode = msgspec.json.Encoder().encode
    yield lambda batch: sink.writelines(encode(row) + b"\n" for row in batch.to_pylist())


@contextmanager
def _write_parquet(sink: IO[bytes], schema: pa.Schema) -> Iterator[_Write]:
    try:
        writer = open_writer(sink, schema)
    except pa.ArrowNotImplementedError as error:
        raise LakeQueryError("Parquet has no type for such a column: cast intervals and the like to text.") from error
    group: list[pa.RecordBatch] = []

    def flush() -> None:
        if group:
            rows = pa.Table.from_batches(group)
            writer.write_table(rows, row_group_size=max(1, len(rows)))
            group.clear()

    def write(batch: pa.RecordBatch) -> None:
        group.append(batch)
        if sum(each.nbytes for each in group) >= _BYTES_PER_GROUP:
            flush()

    with writer:
        yield write
        flush()


_WRITERS: dict[Format, Callable[[IO[bytes], pa.Schema], AbstractContextManager[_Write]]] = {
    Format.CSV: _write_csv,
    Format.JSON: _write_json,
    Format.JSONL: _write_json_lines,
    Format.PARQUET: _write_parquet,
}


def _is_odd(kind: pa.DataType) -> bool:
    """Return whether CSV cannot represent a type, so that JSON text is written instead."""
    return bool(pa.types.is_nested(kind) or pa.types.is_interval(kind))
