"""Live files of a table as its log describes them, and the choice of small files that are to be joined."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from deltalake.transaction import RemoveAction

from dicom_assets.lake.files import parquet

JOINED_FILES = 8
"""Small files that are joined, at least: each hour of a small hospital is one file, and every file costs every run."""
JOINED_AT_ONCE = 64
"""Small files that one write joins, at most: of very many files each write joins a part, and upkeep joins the rest."""
JOINED_BYTES = 4 * 2**20
"""Size on disk of the files that are joined into one, at most."""
MOVED_ROWS = 1000
"""Rows of a file that is joined with any other small file: to move so few rows costs next to nothing."""

UNCOUNTED = -1
"""`DataFile.rows` of a file whose number of rows is not in the log."""


@dataclass(frozen=True)
class DataFile:
    """Live file of a table, as described in the table's log."""

    name: str
    size_bytes: int
    rows: int
    """Number of rows; `UNCOUNTED` where the log has none, as for files that others wrote without statistics."""
    ranges: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Least and greatest value by column, where the log has them."""
    written_at: int = 0
    """Time of writing, in milliseconds since 1970."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """Partition value by column name: in a table that several services share, the service whose rows the file has."""
    path: str = ""
    """Name in the log, URL-encoded as its writer encoded it."""

    def may_hold(self, column: str | None, least: object, greatest: object) -> bool:
        """Return whether the file can hold a value from `least` to `greatest`, both included.

        Without a range in the log the answer is True.
        """
        low, high = self.ranges.get(column or "", (None, None))
        return (low is None or low <= greatest) and (high is None or high >= least)

    @property
    def is_large(self) -> bool:
        """True if the file may hold more than is read at once, as files of other engines may."""
        has_many_rows = self.rows > 2 * parquet.ROWS_PER_FILE or self.rows == UNCOUNTED
        return has_many_rows or self.size_bytes > parquet.BYTES_PER_FILE

    def removal(self, *, data_change: bool = True) -> RemoveAction:
        """Return the log's action that removes the file from the table.

        Args:
            data_change: False where the file's rows stay in the table, in other files.
        """
        path = self.path or encode_path(self.name)
        return RemoveAction(path, data_change, int(time.time() * 1000), self.size_bytes, self.partition)


def encode_path(name: str) -> str:
    """Return a file's name in the form of the log: a relative URI."""
    return quote(name, safe="/=-_.~!$&'()*+,;:@")


def group_small_files(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Return groups of small files that were written one after another; each group is to be joined into about one file.

    A group has at least JOINED_FILES files; smaller groups are not worth a commit.
    """
    groups: list[list[DataFile]] = [[]]
    for file in sorted(files, key=lambda file: file.written_at):
        group = [*groups[-1], file]
        rows, size_bytes = sum(each.rows for each in group), sum(each.size_bytes for each in group)
        if rows > parquet.ROWS_PER_FILE or size_bytes > JOINED_BYTES:
            groups.append([file])
        else:
            groups[-1] = group
    return [group for group in map(_without_large, groups) if len(group) >= JOINED_FILES]


def _without_large(group: Sequence[DataFile]) -> list[DataFile]:
    """Return the group without files that have more rows than all smaller ones together: many rows would move for few.

    So a row is moved once for each doubling of its file, and new rows, which most corrections concern, stay in small
    files. Files of up to MOVED_ROWS rows always remain in the group.
    """
    by_size = sorted(group, key=lambda file: file.rows)
    while by_size and by_size[-1].rows > max(MOVED_ROWS, sum(file.rows for file in by_size[:-1])):
        by_size.pop()
    kept = {file.name for file in by_size}
    return [file for file in group if file.name in kept]
