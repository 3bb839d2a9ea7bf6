"""What a sensor remembers between two ticks, as JSON that says its own version."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def read_cursor(text: str | None, kind: type[T], warn: Callable[[str], None]) -> T:
    """The cursor in a text; where there is none, or it cannot be used, one that starts over.

    To start over is safe: a cursor only spares looking again, what was done is known from Dagster's event log.

    Args:
        text: as Dagster kept it.
        kind: its class; all fields but `version` have defaults.
        warn: told of a cursor that cannot be used.
    """
    if text:
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, UnicodeEncodeError):
            warn(
                "What this sensor remembered cannot be read: another version wrote it, or somebody changed it. The "
                "sensor starts over: it looks at every hour again, which takes some ticks and loses nothing."
            )
    return kind()


def write_cursor(cursor: msgspec.Struct) -> str:
    """The cursor as text."""
    return msgspec.json.encode(cursor).decode()
