"""A version of a table: what its log says of it, and its rows, read file by file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from dicom_assets.adapters.features import Protocol
from dicom_assets.adapters.parquet import UNCOUNTED, DataFile, Files, Stamp
from dicom_assets.adapters.study_index import StudyIndex
from dicom_assets.core.merge import Desired
from dicom_assets.core.schema import SERVICE, Table

_RANGED = ("sequence", "windowStart")
"""Columns whose ranges prune files."""
_SERVICE = f"partition.{SERVICE.name}"


@dataclass(frozen=True)
class Logged:
    """What a table's log says of a version; in a table of several services, of the rows of one."""

    version: int
    since: int
    """The version since which the files are these, as far as that is known."""
    table_id: str
    """Given to the table when it was created; copies and restored ones have the same."""
    schema: pa.Schema
    """The stored columns: those declared, and any that were declared once; without that of the service."""
    partition_columns: tuple[str, ...]
    name: str | None
    """Given to the table when it was created; whoever replaces it by another takes it away."""
    protocol: Protocol
    actions: pa.Table
    """The live files: a row for each, with its statistics in columns such as `min.sequence`."""
    stamp: Stamp | None = None
    """Of the version's commit, where it was looked at."""

    @classmethod
    def of(cls, delta: DeltaTable, service: str | None = None) -> "Logged":
        """Of the version that delta-rs holds at the moment; of a service alone, where the table is of several."""
        metadata, versions = delta.metadata(), delta.protocol()
        schema = pa.schema(delta.schema().to_arrow())
        actions = pa.table(delta.get_add_actions(flatten=True))
        if service is not None and metadata.partition_columns == [SERVICE.name]:
            schema = schema.remove(schema.get_field_index(SERVICE.name))
            actions = actions.filter(pc.equal(actions[_SERVICE], service))
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
        """The table's properties."""
        return self.protocol.properties

    def is_named(self, table: Table) -> bool:
        """Return whether the table was created under the name that ours has."""
        return self.name == table.name

    def follows(self, before: "Logged") -> bool:
        """Whether it is a later version of the same table, with the same files."""
        return self.table_id == before.table_id and self.version >= before.version and self.names == before.names

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the live files; the log has them encoded."""
        return frozenset(map(unquote, self.actions["path"].to_pylist()))

    @cached_property
    def files(self) -> Sequence[DataFile]:
        """The live files."""
        ranges = [name for name in _RANGED if f"min.{name}" in self.actions.column_names]
        columns = ["path", "size_bytes", "num_records", "modification_time"]
        columns += [f"{end}.{name}" for name in ranges for end in ("min", "max")]
        columns += [_SERVICE] if _SERVICE in self.actions.column_names else []
        return [
            DataFile(
                unquote(row["path"]),
                row["size_bytes"],
                UNCOUNTED if row["num_records"] is None else row["num_records"],
                {name: (row[f"min.{name}"], row[f"max.{name}"]) for name in ranges},
                row["modification_time"],
                {SERVICE.name: row[_SERVICE]} if _SERVICE in row else {},
                row["path"],
            )
            for row in self.actions.select(columns).to_pylist()
        ]


class Snapshot:
    """One version of a table; of a table that several services share the rows of one, as if there were no others."""

    def __init__(
        self, table: Table, logged: Logged, files: Files, studies: StudyIndex, connect: Callable[[], DeltaTable]
    ) -> None:
        """A version.

        Args:
            table: whose.
            logged: what the log says of the version.
            files: its folder.
            studies: what is known of the lake's files.
            connect: gives the version as delta-rs sees it, for this snapshot's holder alone.
        """
        self.table = table
        self.logged = logged
        self.folder = files
        self._studies = studies
        self._connect = connect

    @cached_property
    def delta(self) -> DeltaTable:
        """The version as delta-rs sees it, with the rows of all services.

        Most of what is done with a snapshot does without, and without its cost.
        """
        return self._connect()

    @property
    def version(self) -> int:
        """The Delta version."""
        return self.logged.version

    @property
    def service(self) -> str | None:
        """Whose rows these are, where the table has those of several."""
        return self.folder.service

    @property
    def services(self) -> set[str]:
        """Whose rows the table has, where several services share it."""
        return {part[SERVICE.name] for part in self.delta.partitions()}

    @property
    def table_id(self) -> str:
        """What tells the table from one that was created in its place; copies and restored ones have the same.

        Of a table of several services it tells whose rows these are, too.
        """
        return "/".join(filter(None, [self.logged.table_id, self.service]))

    @property
    def schema(self) -> pa.Schema:
        """The stored table's columns: those declared, and any that were declared once."""
        return self.logged.schema

    @property
    def files(self) -> Sequence[DataFile]:
        """The live files."""
        return self.folder.count_rows(self.logged.files)

    @property
    def row_count(self) -> int:
        """Rows of the table."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of the live files."""
        return sum(file.size_bytes for file in self.files)

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        files: Iterable[DataFile] | None = None,
        where: Callable[[pa.Table], pa.ChunkedArray] | None = None,
    ) -> Iterator[tuple[DataFile, pa.Table]]:
        """Yield the table's rows, file by file; of a large file, as other engines write them, in parts.

        Args:
            columns: names; all of the stored table's by default.
            files: those to read; all by default.
            where: gives for each row of a file whether it is wanted; files without one are left out.
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
        """The same as one Arrow table."""
        names = self.schema.names if columns is None else columns
        parts = [rows for _, rows in self.read(columns, files=files, where=where)]
        return pa.concat_tables([pa.schema([self.schema.field(name) for name in names]).empty_table(), *parts])

    def files_of_studies(self, studies: pa.Array) -> list[DataFile]:
        """The files that hold a row of one of the studies."""
        return self._studies.find(self.folder, self.files, self.schema.field(self.table.study), studies)

    def files_of_hours(self, first: datetime, last: datetime) -> list[DataFile]:
        """The files that may hold a row whose hour starts between the two, both included."""
        return [file for file in self.files if file.may_hold("windowStart", first, last)]

    def candidates(self, desired: Desired) -> list[DataFile]:
        """The files that may hold a row of one of the desired keys."""
        if not len(desired.keys):
            return []
        if "windowStart" in self.table.schema.names:
            span = pc.min_max(desired.rows["windowStart"])
            return self.files_of_hours(span["min"].as_py(), span["max"].as_py())
        return self.files_of_studies(pc.unique(desired.keys[self.table.study]))

    def concerned(self, rows: pa.Table, file: DataFile) -> pa.ChunkedArray:
        """For each of some rows or keys whether a file may hold its key; what is looked up in a file stays small so."""
        if "windowStart" in self.table.schema.names:
            least, greatest = file.ranges.get("sequence", (None, None))
            if least is None or greatest is None:
                return pc.is_valid(rows["sequence"])
            return pc.and_(pc.greater_equal(rows["sequence"], least), pc.less_equal(rows["sequence"], greatest))
        studies = self._studies.of_file(file)
        own = rows[self.table.study]
        return pc.is_valid(own) if studies is None else pc.is_in(own, value_set=studies)
