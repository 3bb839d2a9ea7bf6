"""How far a consumer of a table's changes has come, in a file of its own.

Before changes are given, the file says up to which version they will go; that they were given, it says afterwards.
If the consumer took some and the call broke off, the next call must give the changes between the same two versions:
those up to a newer one would not tell of a row that came and went in between.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dicom_assets.core.errors import CursorError


@dataclass(frozen=True)
class Cursor:
    """The version of a table that a consumer holds a copy of."""

    table: str
    table_id: str
    """Of the Delta table: another one if it was created anew, with versions from 0 on."""
    version: int
    """-1 for an empty copy."""
    pending: int | None = None
    """The version up to which changes were begun to be given, and not known to have been."""

    @property
    def is_at_beginning(self) -> bool:
        """Whether the copy is empty."""
        return self.version < 0


def read_cursor(path: Path, table: str) -> Cursor | None:
    """The cursor in a file; None where there is no file yet.

    Raises:
        CursorError: the file holds no cursor, or that of another table.
    """
    try:
        cursor = msgspec.json.decode(path.read_bytes(), type=Cursor)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise CursorError(
            f"{path} holds no cursor of `dicom-assets changes`. Choose another file for --state; one that does not "
            "exist yet begins with all rows."
        ) from error
    if cursor.table != table:
        raise CursorError(f"{path} says how far {cursor.table} was read, and not {table}: give each table a file.")
    return cursor


def write_cursor(path: Path, cursor: Cursor) -> None:
    """Puts the cursor into the file, as a whole or not at all.

    Raises:
        CursorError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(msgspec.json.encode(cursor) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise CursorError(
            f"{path} cannot be written ({error.strerror}). If changes were given, the next call gives them again, "
            "which does no harm to those who apply them by key. For --state, choose a folder you may write to."
        ) from error
