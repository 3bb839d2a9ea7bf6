"""Options and functions that several commands share."""

import signal
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.core.errors import DicomAssetsError

if TYPE_CHECKING:
    from dicom_assets.config.settings import Settings

ServiceName = Annotated[
    str | None, typer.Option(metavar="NAME", help="One service of DICOM_SERVICES; by default all of them.")
]
KeyPrefix = Annotated[
    str | None,
    typer.Option(metavar="PREFIX", help="Prefix of the asset keys in another project, such as radiology/north."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
InstanceCount = Annotated[int, typer.Option(help="Synthetic instances of a new service.", min=0)]


def parse_key_prefix(text: str | None) -> tuple[str, ...]:
    """Return the parts of a key prefix; none where there is no prefix."""
    return tuple(part for part in (text or "").split("/") if part)


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


def run_for_each(services: "Iterable[Settings]", run: "Callable[[Settings], int]") -> int:
    """Call `run` for every service, and return the greatest exit code; an error of one service does not stop others."""
    code = 0
    for settings in services:
        try:
            code = max(code, run(settings))
        except DicomAssetsError as error:
            if settings.service_name is None:
                raise
            typer.echo(f"Error: {settings.service_name}: {error}", err=True)
            code = 1
    return code


def end_by_signals() -> None:
    """Make Ctrl-C, a supervisor's stop and a closed terminal raise KeyboardInterrupt.

    A shell that starts a command in the background makes it ignore SIGINT. Dagster, after a run, would make it ignore
    SIGTERM, too, and child processes would inherit both.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
