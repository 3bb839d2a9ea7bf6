"""State of one version of a table, and its rows, read file by file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import SERVICE, Table
from dicom_assets.lake.files.data_file import UNCOUNTED, DataFile
from dicom_assets.lake.files.folder import Files, Stamp
from dicom_assets.lake.files.scope import PARTITION_COLUMN, Scope
from dicom_assets.lake.table.features import Protocol
from dicom_assets.lake.table.study_index import StudyIndex

Where = Callable[[pa.Table], pa.ChunkedArray]
"""Function that returns for each row whether it is wanted."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State of one version of a table, as the log has it, and access to its rows.

    Where several services share the table, a snapshot has the rows of one service, as if there were no others. It
    never changes, so any number of threads may use one.
    """

    table: Table
    """Declaration of the table; the stored table may have more columns, and older files may have fewer."""
    folder: Files
    studies: StudyIndex
    open_delta: Callable[["Snapshot"], DeltaTable]
    """Function that opens the version in delta-rs."""
    version: int
    """Delta version."""
    since: int
    """First version that has exactly these files, as far as known."""
    table_id: str
    """ID that the table got when it was created; copies and restored tables keep it.

    Where several services share the table, the ID includes the service.
    """
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
    def of(
        cls,
        delta: DeltaTable,
        table: Table,
        folder: Files,
        studies: StudyIndex,
        open_delta: Callable[["Snapshot"], DeltaTable],
    ) -> "Snapshot":
        """Create the snapshot of the version that delta-rs holds at the moment."""
        metadata, versions, scope = delta.metadata(), delta.protocol(), folder.scope
        schema = scope.remove_column(pa.schema(delta.schema().to_arrow()))
        return cls(
            table,
            folder,
            studies,
            open_delta,
            delta.version(),
            delta.version(),
            scope.qualify(str(metadata.id)),
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
            list_files(delta, scope),
        )

    @property
    def scope(self) -> Scope:
        """Rows of the table that this snapshot has."""
        return self.folder.scope

    @property
    def uri(self) -> str:
        """Location of the table, for people."""
        return self.folder.uri

    @property
    def configuration(self) -> Mapping[str, str]:
        """Properties of the table."""
        return self.protocol.properties

    @property
    def is_named(self) -> bool:
        """True if the stored table was created under the name of the declared table."""
        return self.name == self.table.name

    def follows(self, before: "Snapshot") -> bool:
        """Return whether this is the earlier version itself, or a later one of its table with equal files."""
        return self.table_id == before.table_id and self.version >= before.version and self.names == before.names

    @property
    def names(self) -> frozenset[str]:
        """Names of the live files."""
        return read_names(self.actions)

    @cached_property
    def files(self) -> Sequence[DataFile]:
        """Live files, with their numbers of rows.

        Kept with the snapshot, which many calls share: 1,000 files take 6.6 ms, and one write asks for them five times.
        """
        ranges = [name for name in self.table.ranged if f"min.{name}" in self.actions.column_names]
        columns = ["path", "size_bytes", "num_records", "modification_time"]
        columns += [f"{end}.{name}" for name in ranges for end in ("min", "max")]
        columns += [PARTITION_COLUMN] if PARTITION_COLUMN in self.actions.column_names else []
        files = [
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
        return self.folder.count_rows(files)

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of the live files."""
        return sum(file.size_bytes for file in self.files)

    def connect(self) -> DeltaTable:
        """Return the version as a `DeltaTable` that the caller alone holds, with the rows of all services.

        Raises:
            LakeUnavailableError: storage refuses, or the table was created anew meanwhile.
        """
        return self.open_delta(self)

    def list_services(self) -> set[str]:
        """Return all services that have rows in the table, where several services share it."""
        return {part[SERVICE.name] for part in self.connect().partitions()}

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        files: Iterable[DataFile] | None = None,
        where: Where | None = None,
    ) -> Iterator[tuple[DataFile, pa.Table]]:
        """Yield the table's rows file by file; a large file, as other engines write them, comes in parts.

        Args:
            columns: names of the columns to read; None for all stored columns.
            files: files to read; None for all live files.
            where: returns for each row whether it is wanted; parts without a wanted row are left out.
        """
        for file, rows in self.folder.read_each(self.files if files is None else files, self._select(columns)):
            wanted = None if where is None else where(rows)
            found = rows if wanted is None or pc.all(wanted).as_py() else rows.filter(wanted)
            if len(found):
                yield file, found

    def read_table(
        self,
        columns: Sequence[str] | None = None,
        *,
        files: Iterable[DataFile] | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        """Return the rows that `read` yields as one Arrow table."""
        parts = [rows for _, rows in self.read(columns, files=files, where=where)]
        return pa.concat_tables([self._select(columns).empty_table(), *parts])

    def _select(self, columns: Sequence[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])

    def files_of_studies(self, studies: pa.Array) -> list[DataFile]:
        """Return the files that hold a row of one of the studies.

        Args:
            studies: study instance UIDs.
        """
        return self.studies.find(self.folder, self.files, self.schema.field(self.table.study), studies)

    def files_of_hours(self, first: datetime, last: datetime) -> list[DataFile]:
        """Return the files that may hold a row whose hour starts from `first` to `last`, both included."""
        return [file for file in self.files if file.may_hold(self.table.hour, first, last)]


def list_files(delta: DeltaTable, scope: Scope) -> pa.Table:
    """Return the live files of the version that delta-rs holds at the moment, as far as they are in the scope."""
    return scope.select_files(pa.table(delta.get_add_actions(flatten=True)))


def read_names(actions: pa.Table) -> frozenset[str]:
    """Return the names of live files, decoded from the URL encoding of the log."""
    return frozenset(map(unquote, actions["path"].to_pylist()))
