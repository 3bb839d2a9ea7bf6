"""Functions that commands share: parsing of options, and signals that end a long-running command."""

import signal
from datetime import UTC, datetime

import typer


def parse_time(text: str, option: str, *, expected: str = "an ISO 8601 time") -> datetime:
    """Parse a time with a zone, and return it in UTC.

    Args:
        text: ISO 8601 time with its zone.
        option: Name of the option, for the error.
        expected: Description of valid values, for the error.

    Raises:
        typer.BadParameter: The text is not a time, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"not {expected} such as 2026-03-01T00:00Z", param_hint=option) from error
    if moment.tzinfo is None:
        raise typer.BadParameter("the time needs a zone, such as 2026-03-01T00:00Z", param_hint=option)
    return moment.astimezone(UTC)


def end_by_signals() -> None:
    """Make Ctrl-C, a supervisor's stop and a closed terminal raise KeyboardInterrupt.

    A shell that starts a command in the background makes it ignore SIGINT. Dagster, after a run, would make it ignore
    SIGTERM, too, and child processes would inherit both.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
