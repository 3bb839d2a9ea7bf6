"""The command line: `dicom-assets …`. What a command needs is imported inside it, so that `--help` answers at once."""

import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.core.errors import DicomAssetsError, SettingsError
from dicom_assets.reading.commands import commands as reading_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dicom_assets.core.finding import Finding
    from dicom_assets.emulator.store import Service
    from dicom_assets.settings import Settings

app = typer.Typer(
    name="dicom-assets",
    help="Dagster assets that keep Delta tables in step with the change feed of a DICOM service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold patient data
)


@app.callback()
def _root() -> None:
    """Keeps `dicom-assets` a group of commands while there is only one."""


@app.command()
def emulator(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    database: Annotated[Path | None, typer.Option(help="SQLite file that keeps the state; without, memory.")] = None,
    files: Annotated[Path | None, typer.Option(help="Folder for DICOM files, as Data Lake Storage.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="DICOM_EMULATOR_TOKEN", help="Bearer token every request must bear.")
    ] = None,
    audience: Annotated[
        str | None, typer.Option(help="Whom the token of every request must have been issued for, and not expired.")
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files to store.", exists=True, file_okay=False)
    ] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Store the files that come with pydicom.")] = False,
    synthesize: Annotated[int, typer.Option(help="Number of made-up instances to store.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Fixes every random choice.")] = 0,
    hours: Annotated[int, typer.Option(help="Spread the changes over so many hours.", min=0)] = 0,
    start: Annotated[
        str | None, typer.Option(help="First of these hours, ISO 8601 with zone; without, the last hours before now.")
    ] = None,
) -> None:
    """Run the embedded DICOM service until Ctrl-C."""
    import signal
    import threading

    from dicom_assets.emulator.server import serve
    from dicom_assets.emulator.store import Service

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts this in the background has SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    if start is not None and not hours:
        raise typer.BadParameter("the hours to spread changes over are missing: add --hours", param_hint="--start")
    if hours and not (load or bundled or synthesize):
        raise typer.BadParameter("nothing to spread: add --bundled, --load or --synthesize", param_hint="--hours")
    first_hour = _first_hour(start, hours)
    try:
        with Service(database, file_store=files, seed=seed) as service:
            if service.change_count():
                typer.echo(f"{database} holds {service.change_count()} changes already: nothing was added.")
            else:
                _fill(service, load=load, bundled=bundled, count=synthesize, seed=seed, hours=hours, start=first_hour)
            with serve(service, host=host, port=port, token=token, audience=audience) as url:
                _announce(service, url, files, token)
                threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")


def _first_hour(start: str | None, hours: int) -> datetime:
    """The hour in which changes begin."""
    if start is None:
        return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    return _parse_time(start, "--start")


def _parse_time(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("not an ISO 8601 time such as 2026-03-01T00:00Z", param_hint=option) from error
    if moment.tzinfo is None:
        raise typer.BadParameter("the time needs a zone, such as 2026-03-01T00:00Z", param_hint=option)
    return moment.astimezone(UTC)


def _fill(
    service: "Service", *, load: Path | None, bundled: bool, count: int, seed: int, hours: int, start: datetime
) -> None:
    """Store what was asked for: at once, or spread over hours."""
    from collections import Counter

    from dicom_assets.emulator.errors import InstanceExistsError, InvalidInstanceError
    from dicom_assets.emulator.history import write_history
    from dicom_assets.emulator.sources import bundled_files, folder_files, synthesize

    skipped: Counter[str] = Counter()
    found = [*(bundled_files(skipped) if bundled else ()), *(folder_files(load, skipped) if load else ())]
    sources = {(file.study, file.series, file.sop_instance): file for file in reversed(found)}
    dicom_files = list(reversed(sources.values()))
    if hours:
        history = write_history(
            service, start=start, hours=hours, instances=count, seed=seed, files=dicom_files, write_files=True
        )
        typer.echo(f"{history.created} stored, {history.updated} updated, {history.deleted} deleted in {hours} hours.")
    else:
        with service.transaction():
            for file in dicom_files:
                try:
                    file.store(service)
                except (InstanceExistsError, InvalidInstanceError):
                    skipped["refused by the service"] += 1
            for metadata in synthesize(count, seed=seed):
                service.store_metadata(metadata, write_file=True)
        typer.echo(f"{service.instance_count()} instances stored.")
    for reason, number in sorted(skipped.items()):
        typer.echo(f"{number} files skipped: {reason}.")


def _announce(service: "Service", url: str, files: Path | None, token: str | None) -> None:
    """Say where the service is and how the project is pointed at it."""
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


_Service = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of the services that DICOM_SERVICES lists; else all of them.")
]
_Folder = Annotated[Path, typer.Option(help="Folder where the embedded service keeps its state.", file_okay=False)]
_Home = Annotated[Path, typer.Option(help="Folder where Dagster keeps its history.", file_okay=False)]
_Hours = Annotated[int, typer.Option(help="Hours of history of a new service.", min=1, max=720)]
_Instances = Annotated[int, typer.Option(help="Made-up instances of a new service.", min=0)]


@app.command()
def demo(
    *,
    service_folder: _Folder = Path("data/service"),
    dagster_home: _Home = Path(".dagster"),
    hours: _Hours = 24,
    instances: _Instances = 2000,
) -> None:
    """Bring a day of the embedded DICOM service into Delta tables, and query them."""
    import os

    from rich.console import Console

    from dicom_assets.demo import run_demo
    from dicom_assets.embedded import Day

    try:
        run_demo(Console(), folder=service_folder, home=dagster_home, day=Day(hours, instances), env=os.environ)
    except KeyboardInterrupt:
        typer.echo("Stopped half-way. Every table holds whole commits: run it again, and it goes on.", err=True)
        sys.exit(130)


@app.command()
def dev(
    *,
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    service_port: Annotated[int, typer.Option(help="Port of the embedded service; 0 takes a free one.")] = 8080,
    folder: Annotated[
        Path, typer.Option(help="Folder of the service, its tables and Dagster's history.", file_okay=False)
    ] = Path("data/dev"),
    hours: Annotated[int, typer.Option(help="Hours before now in which a new service began.", min=1, max=720)] = 12,
    instances: _Instances = 1000,
    per_minute: Annotated[
        float, typer.Option(help="How often something happens to the service; 0 is never.", min=0, max=600)
    ] = 6,
) -> None:
    """Run an embedded DICOM service that keeps changing, and Dagster on it, until Ctrl-C."""
    import os

    from rich.console import Console

    from dicom_assets.dev import run_dev

    run_dev(
        Console(),
        folder=folder,
        now=datetime.now(UTC),
        hours=hours,
        instances=instances,
        per_minute=per_minute,
        port=port,
        service_port=service_port,
        env=os.environ,
    )


def _for_each(services: "Iterable[Settings]", do: "Callable[[Settings], int]") -> int:
    """Does something for every service, and gives the greatest exit code; the trouble of one holds up no other."""
    code = 0
    for settings in services:
        try:
            code = max(code, do(settings))
        except DicomAssetsError as error:
            if settings.service_name is None:
                raise
            typer.echo(f"Error: {settings.service_name}: {error}", err=True)
            code = 1
    return code


@app.command()
def fabric_shortcuts(
    *,
    workspace: Annotated[str | None, typer.Option(help="Id of the workspace; else DICOM_FABRIC_WORKSPACE_ID.")] = None,
    lakehouse: Annotated[str | None, typer.Option(help="Id of the lakehouse; else DICOM_FABRIC_LAKEHOUSE_ID.")] = None,
    connection: Annotated[
        str | None, typer.Option(help="Id of Fabric's connection to the account; else DICOM_FABRIC_CONNECTION_ID.")
    ] = None,
    tables: Annotated[
        str | None, typer.Option(help="Tables, such as instance,series=ct_series; else DICOM_FABRIC_TABLES.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="Schema in the lakehouse; else DICOM_FABRIC_SCHEMA.")] = None,
    service: _Service = None,
    files: Annotated[
        bool, typer.Option(help="With a shortcut to the DICOM files, where DICOM_FILE_SYSTEM_URL is in Azure.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Change shortcuts that point elsewhere.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")] = False,
) -> None:
    """Create or correct the shortcuts to the tables in a Fabric lakehouse."""
    import os

    from rich.console import Console
    from rich.table import Table

    from dicom_assets.fabric import bring_shortcuts
    from dicom_assets.services import choose_services

    given = {
        "DICOM_FABRIC_WORKSPACE_ID": workspace,
        "DICOM_FABRIC_LAKEHOUSE_ID": lakehouse,
        "DICOM_FABRIC_CONNECTION_ID": connection,
        "DICOM_FABRIC_TABLES": tables,
        "DICOM_FABRIC_SCHEMA": schema,
    }
    environment = {**os.environ, **{name: value for name, value in given.items() if value is not None}}

    services = choose_services(service, environment)

    def bring(settings: "Settings") -> int:
        outcomes = bring_shortcuts(
            settings,
            replace=replace,
            dry_run=dry_run,
            with_tables=settings is services[0] or not settings.shares_tables,  # one for what all share
            with_files=files,
        )
        table = Table("shortcut", "target", "dry run" if dry_run else "result")
        for outcome in outcomes:
            shortcut, color = outcome.step.shortcut, "red" if outcome.problem else "green"
            table.add_row(shortcut.path, shortcut.target.place, f"[{color}]{outcome.done(dry_run=dry_run)}[/]")
        Console().print(table)
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        for problem in problems:
            typer.echo(f"Error: {problem}", err=True)
        return 1 if problems else 0

    sys.exit(_for_each(services, bring))


@app.command()
def maintain(
    *,
    service: _Service = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")] = False,
) -> None:
    """Join small files of the tables, and delete files and log entries older than DICOM_RETENTION_HOURS."""
    import os

    from rich.console import Console

    from dicom_assets.connections import build_lake
    from dicom_assets.services import choose_services
    from dicom_assets.upkeep import maintain_all

    console = Console()

    def maintain_lake(settings: "Settings") -> int:
        return maintain_all(
            console, build_lake(settings), settings.tables, dry_run=dry_run, of=settings.service_name or ""
        )

    sys.exit(_for_each(choose_services(service, os.environ), maintain_lake))


@app.command()
def doctor(
    *,
    checks: Annotated[
        list[str] | None, typer.Argument(help="Only these, and what they need: token, service, lake.write, …")
    ] = None,
    service: _Service = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Check what runs need: settings, tokens, the service, the lake, the files, Dagster. Exit code 1 if one is red."""
    import os
    from dataclasses import replace
    from functools import partial

    from rich.console import Console

    from dicom_assets.doctor import report
    from dicom_assets.doctor.examination import CHECKS, choose, examine
    from dicom_assets.doctor.surroundings import Surroundings
    from dicom_assets.services import choose_services, load_service

    chosen = choose(checks or [])
    if not chosen:
        names = sorted({check.name.partition(".")[0] for check in CHECKS})
        raise typer.BadParameter(f"there is no such check; there are {', '.join(names)}", param_hint="CHECKS")
    try:
        services = [each.service_name for each in choose_services(service, os.environ)]
    except SettingsError:
        services = [service]  # which the first check tells

    def look() -> "Iterator[Finding]":
        for name in services:
            surroundings = Surroundings(
                partial(load_service, name, os.environ),
                lambda: datetime.now(UTC),
                service_name=name,
                dagster_home=os.environ.get("DAGSTER_HOME"),
            )
            for finding in examine(surroundings, chosen):
                yield replace(finding, check=f"{name}/{finding.check}") if name else finding

    with _silenced("azure", "deltalake", "dicom_assets.adapters"):  # their refusals are told by the checks
        findings = list(look()) if as_json else report.tell(look(), Console())
    if as_json:
        typer.echo(report.to_json(findings))
    sys.exit(0 if report.is_healthy(findings) else 1)


@contextmanager
def _silenced(*names: str) -> "Iterator[None]":
    """These loggers say nothing until the block ends."""
    import logging

    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


_Hour = Annotated[str | None, typer.Option(help="ISO 8601 time with zone, at a full hour.")]


@app.command()
def adopt(
    *,
    since: _Hour = None,
    until: _Hour = None,
    service: _Service = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="First have Dagster forget every hour: the lake was lost or is older.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what Dagster would be told, and tell nothing.")
    ] = False,
) -> None:
    """Tell a new Dagster instance (DAGSTER_HOME) which hours are in the lake, so that they are not read again."""
    import os

    from rich.console import Console

    from dicom_assets.adopt import run_adopt
    from dicom_assets.services import choose_services

    range_ = [None if text is None else _full_hour(text, name) for text, name in ((since, "since"), (until, "until"))]
    console = Console()

    def adopt_lake(settings: "Settings") -> int:
        run_adopt(
            console,
            settings,
            home=os.environ.get("DAGSTER_HOME"),
            now=lambda: datetime.now(UTC),
            since=range_[0],
            until=range_[1],
            forgetting=forget,
            dry_run=dry_run,
        )
        return 0

    try:
        sys.exit(_for_each(choose_services(service, os.environ), adopt_lake))
    except KeyboardInterrupt:
        typer.echo("Stopped half-way. Run it again (without --forget), and it goes on with the rest.", err=True)
        sys.exit(130)


def _full_hour(text: str, option: str) -> datetime:
    moment = _parse_time(text, f"--{option}")
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise typer.BadParameter("hours of the lake are full hours of UTC", param_hint=f"--{option}")
    return moment


app.add_typer(reading_commands)


def main() -> None:
    """Run the command line; an error of the project's own ends it with a message instead of a traceback."""
    try:
        app()
    except DicomAssetsError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
