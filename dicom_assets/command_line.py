"""What commands share: how options are read, and what ends a command that runs on."""

import signal
from datetime import UTC, datetime

import typer


def parse_time(text: str, option: str, *, expected: str = "an ISO 8601 time") -> datetime:
    """The time of a text, in UTC.

    Args:
        text: ISO 8601 with its zone.
        option: that it was given for.
        expected: what the option takes.

    Raises:
        typer.BadParameter: the text is no time, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"not {expected} such as 2026-03-01T00:00Z", param_hint=option) from error
    if moment.tzinfo is None:
        raise typer.BadParameter("the time needs a zone, such as 2026-03-01T00:00Z", param_hint=option)
    return moment.astimezone(UTC)


def end_by_signals() -> None:
    """Has Ctrl-C, a supervisor's stop and a terminal that is closed raise KeyboardInterrupt.

    A shell that starts a command in the background has SIGINT ignored. Dagster, after a run, would have SIGTERM ignored
    too, and all that is started here would inherit both.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
