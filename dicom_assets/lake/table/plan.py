"""Plan of a commit: which files a write adds to a table, and which files it removes.

A merge rewrites only the files that hold a row with one of the desired keys. The hour of a row, or its study, tells
which files these may be (`core/columns/schema.py` declares which); then each of them is read. New rows get files of
their own.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction, RemoveAction

from dicom_assets.core.tables.merge import Change, Desired, align_rows, merge_rows
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.parquet import EncodedRows
from dicom_assets.lake.table.commit import MERGE, OPTIMIZE, Commit
from dicom_assets.lake.table.snapshot import Snapshot


@dataclass(frozen=True)
class Plan:
    """Actions of one commit: files to add, which are written already, and files to remove."""

    rewrites: Sequence[AddAction] = ()
    """Files that take the place of removed files."""
    removes: Sequence[RemoveAction] = ()
    inserts: Sequence[AddAction] = ()
    """Files of new rows."""
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    attributes: pa.Table | None = None
    """Attributes decoded from the metadata of the inserted rows, one for each in the order of `inserts`; None if they
    were not decoded."""

    @property
    def adds(self) -> list[AddAction]:
        """Added files."""
        return [*self.rewrites, *self.inserts]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to commit."""
        return not (self.adds or self.removes)

    @property
    def bytes_written(self) -> int:
        """Size of the added files."""
        return sum(action.size for action in self.adds)

    @property
    def _bytes_removed(self) -> int:
        return sum(action.size or 0 for action in self.removes)

    def as_merge(self, key: Sequence[str]) -> Commit:
        """Return the commit of a merge by these key columns."""
        matches = " AND ".join(f"t.{name} = s.{name}" for name in key)
        commit = Commit(MERGE, self.adds, self.removes, {"predicate": json.dumps([f"({matches})"])})
        written = commit.count_rows_written()
        metrics = {
            "numTargetRowsInserted": self.inserted,
            "numTargetRowsUpdated": self.updated,
            "numTargetRowsDeleted": self.deleted,
            "numTargetRowsCopied": written - self.inserted - self.updated,
            "numOutputRows": written,
            "numTargetFilesAdded": len(self.adds),
            "numTargetFilesRemoved": len(self.removes),
            "numTargetBytesAdded": self.bytes_written,
            "numTargetBytesRemoved": self._bytes_removed,
        }
        return replace(commit, metrics=metrics)

    def as_optimize(self) -> Commit:
        """Return the commit of a compaction, which moves rows to other files and changes none."""
        metrics = {
            "numAddedFiles": len(self.adds),
            "numRemovedFiles": len(self.removes),
            "numAddedBytes": self.bytes_written,
            "numRemovedBytes": self._bytes_removed,
        }
        return Commit(OPTIMIZE, self.adds, self.removes, {"predicate": "[]", "zOrderBy": "[]"}, metrics)


def plan_merge(snapshot: Snapshot, desired: Desired | EncodedRows) -> Plan:
    """Write the files that a merge adds, and return the plan of its commit.

    Args:
        snapshot: version that the commit follows.
        desired: rows that the table must have after the commit.
    """
    files = find_files_possibly_holding(snapshot, desired.keys)
    if isinstance(desired, EncodedRows):
        if not files and snapshot.schema.names == snapshot.table.schema.names:
            inserts = list(snapshot.folder.store(desired.contents))
            return Plan(inserts=inserts, inserted=len(desired.keys), attributes=desired.attributes)
        desired = desired.decode()
    rewritten = _Rewritten()
    places = pa.array(range(len(desired.rows)), pa.int64())
    found = [places.slice(0, 0)]
    small = [file for file in files if not file.is_large]
    for file, stored in snapshot.folder.read_each(small, snapshot.schema):
        part, own = _restrict(desired, places, snapshot, file)
        change = merge_rows(stored, part, snapshot.table)
        found.append(own.filter(change.found.combine_chunks()))
        if not change.is_empty:
            rewritten.replace(file, snapshot.folder.write(change.rows))
            rewritten.count(change)
    for file in filter(lambda file: file.is_large, files):
        part, own = _restrict(desired, places, snapshot, file)
        found.extend(own.filter(each) for each in _merge_large(snapshot, file, part, rewritten))
    new, attributes = desired.rows, desired.attributes
    if len(known := pa.concat_arrays(found)):
        is_new = pc.invert(pc.is_in(places, value_set=known))
        new, attributes = new.filter(is_new), None if attributes is None else attributes.filter(is_new)
    inserts = list(snapshot.folder.write(align_rows(new, snapshot.schema)))
    return Plan(
        rewritten.adds, rewritten.removes, inserts, len(new), rewritten.updated, rewritten.deleted, attributes
    )  # fmt: skip


def plan_join(snapshot: Snapshot, groups: Iterable[Sequence[DataFile]]) -> Plan:
    """Write each group of files as larger files, and return the plan of a commit that changes no row."""
    adds: list[AddAction] = []
    removes: list[RemoveAction] = []
    for group in groups:
        parts = (rows for _, rows in snapshot.read(files=group))
        adds.extend(snapshot.folder.write_each(parts, data_change=False))
        removes.extend(file.removal(data_change=False) for file in group)
    return Plan(adds, removes)


def find_files_possibly_holding(snapshot: Snapshot, keys: pa.Table) -> list[DataFile]:
    """Return the files that may hold a row with one of the keys.

    Files with other parts of an hour are left out: they need not be read, and do not prevent that encoded rows are
    stored unchanged.

    Args:
        snapshot: version of the table.
        keys: keys, in the columns `Table.merge_columns`.
    """
    if not len(keys):
        return []
    if snapshot.table.hour is None:
        files = snapshot.files_of_studies(pc.unique(keys[snapshot.table.study]))
    else:
        span = pc.min_max(keys[snapshot.table.hour])
        files = snapshot.files_of_hours(span["min"].as_py(), span["max"].as_py())
    return [file for file in files if pc.any(rows_possibly_in(snapshot, file, keys)).as_py()]


def rows_possibly_in(snapshot: Snapshot, file: DataFile, rows: pa.Table) -> pa.ChunkedArray:
    """Return for each row or key whether a file may hold it, so that few rows are looked up in the file."""
    if snapshot.table.hour is None:
        studies = snapshot.studies.of_file(file)
        own = rows[snapshot.table.study]
        return pc.is_valid(own) if studies is None else pc.is_in(own, value_set=studies)
    first = rows[snapshot.table.key[0]]
    least, greatest = file.ranges.get(snapshot.table.key[0], (None, None))
    if least is None or greatest is None:
        return pc.is_valid(first)
    return pc.and_(pc.greater_equal(first, least), pc.less_equal(first, greatest))


@dataclass
class _Rewritten:
    """Files that a merge has replaced so far."""

    adds: list[AddAction] = field(default_factory=list)
    removes: list[RemoveAction] = field(default_factory=list)
    updated: int = 0
    deleted: int = 0

    def replace(self, file: DataFile, adds: Iterable[AddAction]) -> None:
        self.adds.extend(adds)
        self.removes.append(file.removal())

    def count(self, change: Change) -> None:
        self.updated += change.updated
        self.deleted += change.deleted


def _merge_large(snapshot: Snapshot, file: DataFile, desired: Desired, rewritten: _Rewritten) -> list[pa.Array]:
    """Rewrite a large file in parts, if any of its rows changes.

    A file that changes is read twice, and replaced by files that are not large any more.

    Returns:
        One array for each part of the file: for each desired row whether its key is in the part.
    """

    def merge_parts() -> Iterator[Change]:
        for stored in snapshot.folder.stream(file, snapshot.schema):
            yield merge_rows(stored, desired, snapshot.table)

    def change_parts() -> Iterator[pa.Table]:
        for change in merge_parts():
            rewritten.count(change)
            yield change.rows

    found, differs = [], False
    for change in merge_parts():
        found.append(change.found.combine_chunks())
        differs = differs or not change.is_empty
    if differs:
        rewritten.replace(file, snapshot.folder.write_each(change_parts()))
    return found


def _restrict(desired: Desired, places: pa.Array, snapshot: Snapshot, file: DataFile) -> tuple[Desired, pa.Array]:
    """Return the desired keys and rows that a file may hold, and the places of these rows."""
    own = rows_possibly_in(snapshot, file, desired.rows)
    keys = desired.keys.filter(rows_possibly_in(snapshot, file, desired.keys))
    return Desired(keys, desired.rows.filter(own)), places.filter(own.combine_chunks())
