"""Cursor of a consumer of a table's changes, stored in a file.

Before a call gives changes, it stores the version that the changes lead to as `pending`. After all changes are given,
it stores this version as `version`. If the call breaks off, the consumer may have stored some of the changes, so the
next call must give the changes between these two versions again. Changes up to a newer version would lack the delete
of a row that was inserted up to `pending` and deleted after it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dicom_assets.core.errors import CursorError


@dataclass(frozen=True)
class ChangesCursor:
    """Position of a consumer in a table's versions: the version of the consumer's copy."""

    table: str
    """Name of the table."""
    table_id: str
    """ID of the Delta table; a table that is created again has another ID, and versions from 0."""
    version: int
    """Version of the consumer's copy; -1 for an empty copy."""
    pending: int | None = None
    """Version that the changes of an unfinished call lead to; None if the last call finished."""

    @property
    def is_at_beginning(self) -> bool:
        """True if the copy is empty."""
        return self.version < 0


def read_cursor(path: Path, table: str) -> ChangesCursor | None:
    """Read a cursor from a file; return None if the file does not exist.

    Raises:
        CursorError: the file cannot be read, or contains no cursor, or the cursor of another table.
    """
    try:
        cursor = msgspec.json.decode(path.read_bytes(), type=ChangesCursor)
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


def write_cursor(path: Path, cursor: ChangesCursor) -> None:
    """Write a cursor to a file, atomically.

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
