"""Content of a table's Parquet files: rows encoded, and described by the statistics of the log."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dicom_assets.core.tables.merge import Desired

ROWS_PER_FILE = 20_000
"""Rows per file, at most: about one hour of a large hospital. A merge that touches one row rewrites its whole file."""
BYTES_PER_FILE = 64 * 2**20
"""Size of a file's rows in memory, at most; on disk about a tenth of this."""

CALENDAR_KEY = "org.apache.spark.version"
CALENDAR = {CALENDAR_KEY: "4.0.0"}
"""Key and value in each file's footer that tell Spark 3 that dates follow the proleptic Gregorian calendar.

In a file without the key, Spark 3.0 to 3.5 refuse dates before 1582-10-15 and times before 1900, since Spark 2.4 may
have written the file in its Julian calendar. Where the key's value is 3.0.0 or later (for INT96 3.1.0; compared as
text), and the keys of the legacy mode are absent, they read the values unchanged; Spark 4 does so in any file. No other
reader looks at the key.
Source: `getRebaseSpec` in Spark's `org.apache.spark.sql.execution.datasources.DataSourceUtils`, release 3.5.
"""


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

    def read_first(self, count: int) -> pa.Table:
        """Return the first `count` rows of the first file."""
        with pq.ParquetFile(pa.BufferReader(self.contents[0])) as parquet:
            return pa.Table.from_batches([next(parquet.iter_batches(count))])


def decode(desired: Desired | EncodedRows) -> Desired:
    """Return the desired rows as an Arrow table, also if they are encoded."""
    return desired.decode() if isinstance(desired, EncodedRows) else desired


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


def encode(rows: pa.Table) -> pa.Buffer:
    """Return the content of a file with the rows."""
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


def read_statistics(content: pa.Buffer) -> dict[str, Any]:
    """Return the log's statistics of a file, from the file's content."""
    footer = pq.read_metadata(pa.BufferReader(content))
    schema = footer.schema.to_arrow_schema()
    return _statistics(footer, columns_with_statistics(schema), _find_nan(content, schema))


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
