"""Cursors of sensors: state between two ticks, stored as JSON with a version."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def read_cursor(text: str | None, kind: type[T], warn: Callable[[str], None]) -> T:
    """Parse a cursor; return a new one where there is no text, or the text cannot be used.

    A new cursor is safe: a cursor only saves repeated checks, and finished hours are known from Dagster's event log.

    Args:
        text: Text that Dagster stored; None before the first tick.
        kind: Class of the cursor; all its fields have defaults.
        warn: Logs a warning; called if the text cannot be used.
    """
    if text:
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, UnicodeEncodeError):
            warn(
                "The cursor of this sensor cannot be read: another version wrote it, or somebody changed it. It "
                "starts anew and checks every hour again, which takes some ticks and loses nothing."
            )
    return kind()


def write_cursor(cursor: msgspec.Struct) -> str:
    """Return the cursor as JSON text."""
    return msgspec.json.encode(cursor).decode()
