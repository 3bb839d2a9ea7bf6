"""Differing rows of two table versions, found by the files in which the versions differ.

Files never change, so a file that both versions have need not be read: a merge exchanges few files, and only these are
compared. The table needs no feature for this that its readers would have to know. A compaction exchanges files too, but
rows that are equal on both sides cancel out.

Memory: rows of both sides are compared in parts of about PART_BYTES, cut by ranges of the key; a comparison takes a few
times this size. A first copy, in which every row is an insert, holds some thousand rows at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import CursorError, LakeUnavailableError, VersionGoneError
from dicom_assets.core.tables.row_changes import ChangeType, build_change_schema, build_changes, mark_rows
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import read_log, read_removals
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.time_travel import open_at

PART_BYTES = 256 * 2**20
"""Size in memory of the rows that are compared at a time, of both versions together; a larger study is one part."""
BEGINNING = -1
"""Number of the empty version before the first."""


class TableChanges:
    """Net changes of a table from one version to another: an iterable of Arrow batches, which are read on demand.

    To turn a copy of the older version into the newer one, delete the keys of `delete` rows, and write every other row
    in place of its key's row. Anything that takes Arrow streams takes this object: `pyarrow.table(changes)`,
    `polars.DataFrame(changes)`, DuckDB's `SELECT … FROM changes`. It can be read any number of times.
    """

    def __init__(self, old: Snapshot | None, new: Snapshot) -> None:
        """Create the changes between two versions.

        Args:
            old: the older version; None for an empty one, so that every row is an insert.
            new: the newer version.
        """
        self._old, self._new = old, new
        self.table: Table = new.table
        self.table_id = new.table_id
        """ID of the Delta table; it changes if the table is created anew."""
        self.since = BEGINNING if old is None else old.version
        """Number of the older version."""
        self.version = new.version
        """Number of the newer version: `since` of the next call."""
        self.schema: pa.Schema = build_change_schema(new.schema.remove_metadata())
        before = {file.name: file for file in old.files} if old else {}
        after = {file.name: file for file in new.files}
        self._removed = [file for name, file in before.items() if name not in after]
        self._added = [file for name, file in after.items() if name not in before]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the changes, each key at most once, in no particular order.

        Raises:
            LakeUnavailableError: storage refuses, or a file was vacuumed meanwhile.
        """
        for rows in self._changes():
            yield from rows.cast(self.schema).to_batches()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the changes as an Arrow C stream."""
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the changes as a pyarrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    @property
    def files_read(self) -> int:
        """Number of files in which the versions differ."""
        return len(self._removed) + len(self._added)

    def check_files(self, *, is_newest: bool) -> None:
        """Check that all needed files still exist.

        Args:
            is_newest: whether the newer version is the table's newest, whose files nothing deletes.

        Raises:
            VersionGoneError: needed files were vacuumed.
        """
        if is_newest and not self._removed:
            return
        present = self._new.folder.list_names()
        if any(file.name not in present for file in self._added):
            raise VersionGoneError(
                f"Version {self.version} of {self.table.name} cannot be read any more: files of it were vacuumed. Ask "
                "for the changes until a newer version; or, where a call broke off, load the table anew."
            )
        gone = {file.name for file in self._removed if file.name not in present}
        if gone:
            raise VersionGoneError(
                f"The changes of {self.table.name} since version {self.since} are not to be had any more: files of "
                "that version were vacuumed after DICOM_RETENTION_HOURS. They are from version "
                f"{self._first_kept(present)} on. Load the table anew (since the beginning), into an empty copy."
            )

    def _first_kept(self, present: set[str]) -> int:
        """Return the first version since which all files that later commits removed still exist."""
        log = read_log(self._new.folder)
        for version in range(self.version, self.since, -1):
            removed = read_removals(self._new.folder, version)
            if removed is None or any(name not in present for name in filter(self._new.scope.owns, removed)):
                return log.first_readable(version)
        return log.first_readable(self.since)

    def _changes(self) -> Iterator[pa.Table]:
        if not self._removed:
            yield from (mark_rows(rows, ChangeType.INSERT, self.version) for rows in self._rows(self._added))
        elif not self._added:
            yield from (mark_rows(rows, ChangeType.DELETE, self.version) for rows in self._rows(self._removed))
        else:
            yield from map(self._compare, self._parts())

    def _compare(self, part: "_Part | None") -> pa.Table:
        """Return the changes of a part; its rows are released before the next part is read."""
        old, new = (pa.concat_tables([self._empty, *self._rows(each, part)]) for each in self._both)
        return build_changes(old, new, self.table.key, self.version)

    @property
    def _empty(self) -> pa.Table:
        return self._new.schema.remove_metadata().empty_table()

    @property
    def _both(self) -> tuple[list[DataFile], list[DataFile]]:
        return self._removed, self._added

    def _rows(self, files: Sequence[DataFile], part: "_Part | None" = None) -> Iterator[pa.Table]:
        """Yield the rows of files, some thousand at a time, in the columns of the newer version."""
        for file in files:
            if part is None or part.may_hold(file):
                for rows in self._new.folder.stream(file, self._empty.schema):
                    yield rows if part is None else rows.filter(part.holds(rows))

    def _parts(self) -> Iterator["_Part | None"]:
        """Yield ranges of keys whose rows, of both versions, fit into PART_BYTES; None for one range of all keys."""
        files = list(chain(*self._both))
        largest = max(files, key=lambda file: file.size_bytes / max(1, file.rows))
        sample = next(self._new.folder.stream(largest, self._empty.schema), self._empty)
        row_bytes = max(1, sample.nbytes // max(1, len(sample)))
        del sample
        if row_bytes * sum(file.rows for file in files) <= PART_BYTES:
            yield None
            return
        yield from self._ranges(files, max(1, PART_BYTES // row_bytes))

    def _ranges(self, files: Sequence[DataFile], rows_per_part: int) -> Iterator["_Part"]:
        column = self.table.study if self.table.study in self.table.key else self.table.key[0]
        schema = pa.schema([self._new.schema.field(column)])
        spans: dict[str, tuple[Any, Any]] = {}
        counts = pa.table({"value": pa.array([], schema[0].type), "rows": pa.array([], pa.int64())})
        for file in files:
            values = self._new.folder.read(file, schema)[column]
            span = pc.min_max(values)
            spans[file.name] = (span["min"].as_py(), span["max"].as_py())
            found = values.value_counts()
            found = pa.table({"value": found.field("values"), "rows": found.field("counts")})
            both = pa.concat_tables([counts, found.cast(counts.schema)])
            counts = both.group_by("value").aggregate([("rows", "sum")]).rename_columns(["value", "rows"])
        counts = counts.sort_by("value")
        first, rows = 0, 0
        for place, count in enumerate(counts["rows"].to_pylist()):
            if rows and rows + count > rows_per_part:
                yield _Part(column, counts["value"][first], counts["value"][place - 1], spans)
                first, rows = place, 0
            rows += count
        yield _Part(column, counts["value"][first], counts["value"][-1], spans)


@dataclass(frozen=True)
class _Part:
    """Rows whose value in one key column lies in a range, both ends included."""

    column: str
    least: pa.Scalar
    greatest: pa.Scalar
    spans: dict[str, tuple[Any, Any]]
    """Least and greatest value by file name."""

    def may_hold(self, file: DataFile) -> bool:
        least, greatest = self.spans[file.name]
        return least is not None and bool(least <= self.greatest.as_py() and greatest >= self.least.as_py())

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        values = rows[self.column]
        return pc.and_(pc.greater_equal(values, self.least), pc.less_equal(values, self.greatest))


def open_changes(
    lake: Lake,
    table: Table,
    since: int | datetime | None,
    until: int | datetime | None = None,
    *,
    table_id: str | None = None,
) -> TableChanges:
    """Return the net changes of a table between two of its versions.

    Args:
        lake: lake of the table.
        table: any table of the lake.
        since: a version or a time; None gives all rows as inserts. So does 0, the version that creates a table.
        until: a version or a time; None for the newest version.
        table_id: ID of the Delta table to which the version `since` belongs; None where it is not known.

    Raises:
        CursorError: the table was created anew since, and has another ID.
        VersionGoneError: one of the versions does not exist yet, or cannot be read any more.
        LakeUnavailableError: the table does not exist, or storage refuses.
    """
    newest = lake.open(table)
    if newest is None:
        raise LakeUnavailableError(
            f"There is no table {table.name} at {lake.uri(table)}. Materialise the asset {table.name}; if the tables "
            f"lie elsewhere, set DICOM_STORAGE_URL, DICOM_CONTAINER_NAME and DICOM_{table.name.upper()}_TABLE_PATH."
        )
    if table_id not in (None, newest.table_id):
        raise CursorError(
            f"The table {table.name} was created anew since its changes were read last, so its versions began at 0 "
            "again. Empty the copy, and load it from the beginning (without the state file)."
        )
    new = open_at(lake, newest, until)
    if new is None:
        raise VersionGoneError(
            f"The table {table.name} was created later than the time until which changes are asked for."
        )
    old = _open_since(lake, newest, since)
    if old is not None and old.version > new.version:
        raise VersionGoneError(
            f"Version {old.version} of {table.name}, since which changes are asked for, is newer than version "
            f"{new.version}, until which they are."
        )
    changes = TableChanges(old, new)
    changes.check_files(is_newest=new.version == newest.version)
    return changes


def _open_since(lake: Lake, newest: Snapshot, since: int | datetime | None) -> Snapshot | None:
    if since is None:
        return None
    try:
        return open_at(lake, newest, since)
    except VersionGoneError as error:
        if since == 0:
            return None  # version 0 had no rows
        if isinstance(since, int) and since > newest.version:
            raise
        raise VersionGoneError(f"{error} Load the table anew (since the beginning), into an empty copy.") from None
