"""`dicom-assets emulator`: run only the embedded DICOM service."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dicom_assets.cli.options import end_by_signals, parse_time
from dicom_assets.emulator.store.unreadable import Fault

if TYPE_CHECKING:
    from dicom_assets.emulator.store.store import Service

_NAMED_FILES: Final = 100
"""Most skipped files that are listed for one reason."""


def emulator(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    database: Annotated[
        Path | None, typer.Option(help="SQLite file that keeps the state; by default it is kept in memory.")
    ] = None,
    files: Annotated[Path | None, typer.Option(help="Folder for DICOM files, as Data Lake Storage.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="DICOM_EMULATOR_TOKEN", help="Bearer token that every request must have.")
    ] = None,
    audience: Annotated[
        str | None, typer.Option(help="Audience that the token of every request must have, unexpired.")
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files to store.", exists=True, file_okay=False)
    ] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Store the files that come with pydicom.")] = False,
    synthesize: Annotated[int, typer.Option(help="Number of synthetic instances to store.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    hours: Annotated[int, typer.Option(help="Hours to spread the changes over; 0 stores all at once.", min=0)] = 0,
    start: Annotated[
        str | None, typer.Option(help="First of these hours, ISO 8601 with zone; by default the hours end now.")
    ] = None,
    padding: Annotated[
        bool, typer.Option("--padding", help="Keep padding of UIDs and values; synthetic instances have some.")
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Leave out elements that do not fit their value representation.")
    ] = False,
    faulty_every: Annotated[
        int, typer.Option(help="One of so many instances has metadata that cannot be served; 0 for none.", min=0)
    ] = 0,
    fault: Annotated[
        list[Fault],
        typer.Option(help="Fault of this metadata: 500, 400, or invalid JSON; may be repeated, then in turn."),
    ] = [Fault.MISSING],  # noqa: B006 - read by typer alone
    max_page_bytes: Annotated[
        int | None, typer.Option(help="Largest page of the change feed in bytes; larger ones answer 504.", min=2)
    ] = None,
    max_page_entries: Annotated[
        int | None, typer.Option(help="Most entries of a page; larger pages answer 504.", min=1)
    ] = None,
) -> None:
    """Run the embedded DICOM service until Ctrl-C."""
    import threading

    from dicom_assets.emulator.http.server import serve
    from dicom_assets.emulator.store.store import Service

    end_by_signals()
    if start is not None and not hours:
        raise typer.BadParameter("the hours to spread changes over are missing: add --hours", param_hint="--start")
    if hours and not (load or bundled or synthesize):
        raise typer.BadParameter("nothing to spread: add --bundled, --load or --synthesize", param_hint="--hours")
    first_hour = _choose_first_hour(start, hours)
    try:
        with Service(
            database,
            file_store=files,
            seed=seed,
            validate=validate,
            keep_padding=padding,
            faulty_every=faulty_every,
            faults=fault,
        ) as service:
            if service.change_count():
                typer.echo(f"{database} holds {service.change_count()} changes already: nothing was added.")
            else:
                _fill(service, load=load, bundled=bundled, count=synthesize, seed=seed, hours=hours, start=first_hour)
            with serve(
                service,
                host=host,
                port=port,
                token=token,
                audience=audience,
                max_page_bytes=max_page_bytes,
                max_page_entries=max_page_entries,
            ) as url:
                _announce(service, url, files, token)
                threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")


def _choose_first_hour(start: str | None, hours: int) -> datetime:
    """Return the hour in which the changes begin."""
    if start is None:
        return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    return parse_time(start, "--start")


def _fill(
    service: "Service", *, load: Path | None, bundled: bool, count: int, seed: int, hours: int, start: datetime
) -> None:
    """Store the requested instances: at once, or spread over hours."""
    import random
    from collections import Counter

    from dicom_assets.emulator.datasets.history import write_history
    from dicom_assets.emulator.datasets.sources import (
        REFUSED,
        bundled_files,
        describe_refusal,
        folder_files,
        pad_metadata,
        synthesize,
    )

    skipped: Counter[str] = Counter()
    named: dict[Path, str] = {}
    loaded = folder_files(load, skip=named.setdefault, bare=True) if load else ()
    found = [*(bundled_files(lambda _, reason: skipped.update([reason])) if bundled else ()), *loaded]
    files = list(reversed({file.key: file for file in reversed(found)}.values()))
    if hours:
        history = write_history(
            service,
            start=start,
            hours=hours,
            instances=count,
            seed=seed,
            files=files,
            skip=named.setdefault,
        )
        typer.echo(f"{history.created} stored, {history.updated} updated, {history.deleted} deleted in {hours} hours.")
    else:
        with service.transaction():
            for file in files:
                try:
                    file.store(service)
                except REFUSED as error:
                    named[file.path] = describe_refusal(error)
            rng = random.Random(f"{seed}, padding")  # noqa: S311 - reproducible, not secret
            for metadata in synthesize(count, seed=seed):
                padded = pad_metadata(metadata, rng) if service.keep_padding else metadata
                service.store_metadata(padded, write_file=True)
        typer.echo(f"{service.instance_count()} instances stored.")
    for reason, number in sorted((skipped + Counter(named.values())).items()):
        typer.echo(f"{number} files skipped: {reason}.")
        for path in [path for path, why in named.items() if why == reason][:_NAMED_FILES]:
            typer.echo(f"  {_escape(path)}")


def _escape(path: Path) -> str:
    """Return a path for the terminal, with `?` in place of unprintable characters."""
    return "".join(character if character.isprintable() else "?" for character in str(path))


def _announce(service: "Service", url: str, files: Path | None, token: str | None) -> None:
    """Print the service's address, and the variables that point the project at it."""
    first = service.change_feed(limit=1, include_metadata=False)
    start = first[0]["timestamp"][:13] if first else f"{datetime.now(UTC):%Y-%m-%dT%H}"
    typer.echo(f"The embedded DICOM service listens on {url} (change feed: {url}/v2/changefeed). Ctrl-C stops it.")
    if token is not None:
        typer.echo("Every request needs the bearer token.")
    typer.echo("Point the project at it:")
    typer.echo(f"  DICOM_SERVICE_URL={url} DICOM_AUTHENTICATION=none DICOM_START_TIME={start}:00:00Z")
    if files is not None:
        typer.echo(f"  DICOM_FILE_SYSTEM_URL={files.resolve().as_uri()}")
    sys.stdout.flush()
