"""Version of a table: its state in the log, and its rows, read file by file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import SERVICE, Table
from dicom_assets.core.tables.merge import Desired
from dicom_assets.lake.table.features import Protocol
from dicom_assets.lake.table.parquet import UNCOUNTED, DataFile, Files, Stamp
from dicom_assets.lake.table.scope import PARTITION_COLUMN, WHOLE_TABLE, Scope
from dicom_assets.lake.table.study_index import StudyIndex

_RANGED = ("sequence", "windowStart")
"""Columns whose ranges prune files."""


@dataclass(frozen=True)
class Logged:
    """Log state of one table version; where several services share the table, the state of one service's rows."""

    version: int
    since: int
    """First version that has exactly these files, as far as known."""
    table_id: str
    """ID that the table got when it was created; copies and restored tables keep the ID."""
    schema: pa.Schema
    """Stored columns: all that are declared or were declared once, without the service's column."""
    partition_columns: tuple[str, ...]
    name: str | None
    """Name that the table got when it was created; another engine that replaces the table removes the name."""
    protocol: Protocol
    actions: pa.Table
    """Live files, one row each, with statistics in columns such as `min.sequence`."""
    stamp: Stamp | None = None
    """Stamp of the version's commit file; None where it was not looked at."""

    @classmethod
    def of(cls, delta: DeltaTable, scope: Scope = WHOLE_TABLE) -> "Logged":
        """Create the log state of the version that delta-rs holds at the moment.

        Args:
            delta: the table.
            scope: rows of the table to see.
        """
        metadata, versions = delta.metadata(), delta.protocol()
        schema = scope.remove_column(pa.schema(delta.schema().to_arrow()))
        actions = scope.select_files(pa.table(delta.get_add_actions(flatten=True)))
        return cls(
            delta.version(),
            delta.version(),
            str(metadata.id),
            schema,
            tuple(metadata.partition_columns),
            metadata.name,
            Protocol(
                versions.min_reader_version,
                versions.min_writer_version,
                frozenset(versions.reader_features or []),
                frozenset(versions.writer_features or []),
                metadata.configuration,
                schema,
            ),
            actions,
        )

    @property
    def configuration(self) -> Mapping[str, str]:
        """Properties of the table."""
        return self.protocol.properties

    def is_named(self, table: Table) -> bool:
        """Return whether the stored table was created under the name of a declared table."""
        return self.name == table.name

    def follows(self, before: "Logged") -> bool:
        """Return whether this is the earlier version itself, or a later one of its table with equal files."""
        return self.table_id == before.table_id and self.version >= before.version and self.names == before.names

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the live files, decoded from the URL encoding of the log."""
        return frozenset(map(unquote, self.actions["path"].to_pylist()))

    @cached_property
    def files(self) -> Sequence[DataFile]:
        """Live files."""
        ranges = [name for name in _RANGED if f"min.{name}" in self.actions.column_names]
        columns = ["path", "size_bytes", "num_records", "modification_time"]
        columns += [f"{end}.{name}" for name in ranges for end in ("min", "max")]
        columns += [PARTITION_COLUMN] if PARTITION_COLUMN in self.actions.column_names else []
        return [
            DataFile(
                unquote(row["path"]),
                row["size_bytes"],
                UNCOUNTED if row["num_records"] is None else row["num_records"],
                {name: (row[f"min.{name}"], row[f"max.{name}"]) for name in ranges},
                row["modification_time"],
                {SERVICE.name: row[PARTITION_COLUMN]} if PARTITION_COLUMN in row else {},
                row["path"],
            )
            for row in self.actions.select(columns).to_pylist()
        ]


class Snapshot:
    """One version of a table; where several services share the table, the rows of one, as if there were no others."""

    def __init__(
        self, table: Table, logged: Logged, files: Files, studies: StudyIndex, connect: Callable[[], DeltaTable]
    ) -> None:
        """Create a snapshot.

        Args:
            table: declaration of the table.
            logged: log state of the version.
            files: files in the table's folder.
            studies: index of the studies in the lake's files.
            connect: returns the version as a `DeltaTable` that this snapshot's holder alone uses.
        """
        self.table = table
        self.logged = logged
        self.folder = files
        self._studies = studies
        self._connect = connect

    @cached_property
    def delta(self) -> DeltaTable:
        """Version as a `DeltaTable`, with the rows of all services.

        It is opened on first use: most uses of a snapshot do not need it, and save its cost.
        """
        return self._connect()

    @property
    def version(self) -> int:
        """Delta version."""
        return self.logged.version

    @property
    def scope(self) -> Scope:
        """Rows of the table that this snapshot has."""
        return self.folder.scope

    @property
    def services(self) -> set[str]:
        """All services that have rows in the table, where several services share it."""
        return {part[SERVICE.name] for part in self.delta.partitions()}

    @property
    def table_id(self) -> str:
        """ID that changes if another table is created in this table's place; copies and restored tables keep it.

        Where several services share the table, the ID includes the service.
        """
        return self.scope.qualify(self.logged.table_id)

    @property
    def schema(self) -> pa.Schema:
        """Stored columns: all that are declared or were declared once."""
        return self.logged.schema

    @property
    def files(self) -> Sequence[DataFile]:
        """Live files, with their numbers of rows."""
        return self.folder.count_rows(self.logged.files)

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of the live files."""
        return sum(file.size_bytes for file in self.files)

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        files: Iterable[DataFile] | None = None,
        where: Callable[[pa.Table], pa.ChunkedArray] | None = None,
    ) -> Iterator[tuple[DataFile, pa.Table]]:
        """Yield the table's rows file by file; a large file, as other engines write them, comes in parts.

        Args:
            columns: names of the columns to read; None for all stored columns.
            files: files to read; None for all live files.
            where: returns for each row whether it is wanted; parts without a wanted row are left out.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        for file, rows in self.folder.read_each(self.files if files is None else files, schema):
            wanted = None if where is None else where(rows)
            found = rows if wanted is None or pc.all(wanted).as_py() else rows.filter(wanted)
            if len(found):
                yield file, found

    def read_table(
        self,
        columns: Sequence[str] | None = None,
        *,
        files: Iterable[DataFile] | None = None,
        where: Callable[[pa.Table], pa.ChunkedArray] | None = None,
    ) -> pa.Table:
        """Return the rows that `read` yields as one Arrow table."""
        names = self.schema.names if columns is None else columns
        parts = [rows for _, rows in self.read(columns, files=files, where=where)]
        return pa.concat_tables([pa.schema([self.schema.field(name) for name in names]).empty_table(), *parts])

    def files_of_studies(self, studies: pa.Array) -> list[DataFile]:
        """Return the files that hold a row of one of the studies.

        Args:
            studies: study instance UIDs.
        """
        return self._studies.find(self.folder, self.files, self.schema.field(self.table.study), studies)

    def files_of_hours(self, first: datetime, last: datetime) -> list[DataFile]:
        """Return the files that may hold a row whose hour starts from `first` to `last`, both included."""
        return [file for file in self.files if file.may_hold("windowStart", first, last)]

    def candidates(self, desired: Desired) -> list[DataFile]:
        """Return the files that may hold a row of one of the desired keys."""
        if not len(desired.keys):
            return []
        if "windowStart" in self.table.schema.names:
            span = pc.min_max(desired.rows["windowStart"])
            return self.files_of_hours(span["min"].as_py(), span["max"].as_py())
        return self.files_of_studies(pc.unique(desired.keys[self.table.study]))

    def concerned(self, rows: pa.Table, file: DataFile) -> pa.ChunkedArray:
        """Return for each row or key whether a file may hold it, so that few rows are looked up in the file."""
        if "windowStart" in self.table.schema.names:
            least, greatest = file.ranges.get("sequence", (None, None))
            if least is None or greatest is None:
                return pc.is_valid(rows["sequence"])
            return pc.and_(pc.greater_equal(rows["sequence"], least), pc.less_equal(rows["sequence"], greatest))
        studies = self._studies.of_file(file)
        own = rows[self.table.study]
        return pc.is_valid(own) if studies is None else pc.is_in(own, value_set=studies)
