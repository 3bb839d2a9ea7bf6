"""Plan of a commit: which files a write adds to a table, and which files it removes."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction, RemoveAction

from dicom_assets.core.tables.merge import Change, Desired, align_rows, merge_rows
from dicom_assets.lake.table.commit import MERGE, OPTIMIZE, Commit
from dicom_assets.lake.table.parquet import DataFile, decode
from dicom_assets.lake.table.snapshot import Snapshot


class Plan:
    """Actions of one commit: files to add, and files to remove."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Create an empty plan.

        Args:
            snapshot: version that the commit follows.
        """
        self._snapshot = snapshot
        self.adds: list[AddAction] = []
        self.removes: list[RemoveAction] = []
        self.inserted = self.updated = self.deleted = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.adds or self.removes)

    @property
    def bytes_written(self) -> int:
        """Size of the added files."""
        return sum(action.size for action in self.adds)

    @property
    def _bytes_removed(self) -> int:
        return sum(action.size or 0 for action in self.removes)

    def as_merge(self) -> Commit:
        """Return the commit of a merge."""
        matches = (f"t.{name} = s.{name}" for name in self._snapshot.table.key)
        commit = Commit(MERGE, self.adds, self.removes, {"predicate": json.dumps([f"({' AND '.join(matches)})"])})
        written = commit.rows_written
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

    def prepare(self, desired: Desired) -> None:
        """Write the files that the commit will name, and record the actions and row counts."""
        snapshot, table = self._snapshot, self._snapshot.table
        # Files with other parts of the hour are left out: they need not be read, and must not prevent that encoded
        # rows are stored unchanged.
        candidates = [
            file for file in snapshot.candidates(desired) if pc.any(snapshot.concerned(desired.keys, file)).as_py()
        ]
        if desired.encoded and not candidates and snapshot.schema.names == table.schema.names:
            self.inserted = len(desired.rows)
            self.adds.extend(snapshot.folder.store(desired.encoded, attributes=desired.attributes))
            return
        desired = decode(desired)
        places = pa.array(range(len(desired.rows)), pa.int64())
        found = [places.slice(0, 0)]
        large = [file for file in candidates if file.is_large]
        for file, stored in snapshot.folder.read_each((f for f in candidates if not f.is_large), snapshot.schema):
            part, own = _restrict(desired, places, snapshot, file)
            change = merge_rows(stored, part, table)
            found.append(own.filter(change.found.combine_chunks()))
            if not change.is_empty:
                self._count(change)
                self.adds.extend(snapshot.folder.write(change.rows))
                self.removes.append(file.removal())
        for file in large:
            part, own = _restrict(desired, places, snapshot, file)
            found.extend(own.filter(each) for each in self._merge_large(file, part))
        known = pa.concat_arrays(found)
        new, attributes = desired.rows, desired.attributes
        if len(known):
            is_new = pc.invert(pc.is_in(places, value_set=known))
            new, attributes = new.filter(is_new), None if attributes is None else attributes.filter(is_new)
        self.inserted = len(new)
        self.adds.extend(snapshot.folder.write(align_rows(new, snapshot.schema), attributes=attributes))

    def _merge_large(self, file: DataFile, desired: Desired) -> list[pa.Array]:
        """Rewrite a large file in parts, if any of its rows changes.

        A file that changes is read twice, and replaced by files that are not large any more.

        Returns:
            One array for each part of the file: for each desired row whether its key is in the part.
        """
        snapshot = self._snapshot
        changes = (
            merge_rows(stored, desired, snapshot.table) for stored in snapshot.folder.stream(file, snapshot.schema)
        )
        found, differs = [], False
        for change in changes:
            found.append(change.found.combine_chunks())
            differs = differs or not change.is_empty
        if differs:
            self.adds.extend(snapshot.folder.write_each(self._change_parts(file, desired)))
            self.removes.append(file.removal())
        return found

    def _change_parts(self, file: DataFile, desired: Desired) -> Iterator[pa.Table]:
        for stored in self._snapshot.folder.stream(file, self._snapshot.schema):
            change = merge_rows(stored, desired, self._snapshot.table)
            self._count(change)
            yield change.rows

    def _count(self, change: Change) -> None:
        self.updated += change.updated
        self.deleted += change.deleted


def _restrict(desired: Desired, places: pa.Array, snapshot: Snapshot, file: DataFile) -> tuple[Desired, pa.Array]:
    """Return the desired keys and rows that a file may hold, and the places of these rows."""
    concerned = snapshot.concerned(desired.rows, file)
    keys = desired.keys.filter(snapshot.concerned(desired.keys, file))
    return Desired(keys, desired.rows.filter(concerned)), places.filter(concerned.combine_chunks())
