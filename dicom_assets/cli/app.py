"""The command line: `dicom-assets …`. A command imports its modules inside its function, so that `--help` is fast."""

import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.emulator import commands as emulator_commands
from dicom_assets.cli.options import end_by_signals, parse_time
from dicom_assets.cli.reading import commands as reading_commands
from dicom_assets.core.errors import DicomAssetsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dicom_assets.config.settings import Settings
    from dicom_assets.core.finding import Finding

app = typer.Typer(
    name="dicom-assets",
    help="Dagster assets that keep Delta tables in step with the change feed of a DICOM service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold patient data
)


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

    from dicom_assets.demo.demo import run_demo
    from dicom_assets.demo.embedded import Day

    end_by_signals()
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

    from dicom_assets.demo.dev import run_dev

    end_by_signals()
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
    """Call `do` for every service, and return the greatest exit code; an error of one service does not stop others."""
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

    from dicom_assets.config.services import choose_services
    from dicom_assets.fabric.wanted import bring_shortcuts

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
            with_tables=settings is services[0] or not settings.shares_tables,  # shared tables: only once
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
    """Join small files, repair what earlier versions wrote, and delete what DICOM_RETENTION_HOURS lets go."""
    import os

    from rich.console import Console

    from dicom_assets.cli.maintain import maintain_all
    from dicom_assets.config.connections import build_repair
    from dicom_assets.config.services import choose_services

    console = Console()

    def maintain_lake(settings: "Settings") -> int:
        return maintain_all(console, build_repair(settings), dry_run=dry_run, of=settings.service_name or "")

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

    from dicom_assets.config.services import choose_services, load_service
    from dicom_assets.doctor import report
    from dicom_assets.doctor.examination import CHECKS, choose, examine
    from dicom_assets.doctor.surroundings import Surroundings

    chosen = choose(checks or [])
    if not chosen:
        names = sorted({check.name.partition(".")[0] for check in CHECKS})
        raise typer.BadParameter(f"there is no such check; there are {', '.join(names)}", param_hint="CHECKS")
    try:
        services = [each.service_name for each in choose_services(service, os.environ)]
    except SettingsError:
        services = [service]  # the first check reports the error

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

    with _silenced("azure", "deltalake", "dicom_assets"):  # the checks report their errors
        findings = list(look()) if as_json else report.tell(look(), Console())
    if as_json:
        typer.echo(report.to_json(findings))
    sys.exit(0 if report.is_healthy(findings) else 1)


@contextmanager
def _silenced(*names: str) -> "Iterator[None]":
    """Silence loggers until the block ends."""
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

    from dicom_assets.cli.adopt import run_adopt
    from dicom_assets.config.services import choose_services

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
    moment = parse_time(text, f"--{option}")
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise typer.BadParameter("hours of the lake are full hours of UTC", param_hint=f"--{option}")
    return moment


app.add_typer(emulator_commands)
app.add_typer(reading_commands)


def main() -> None:
    """Run the command line; print an error of the project as a message instead of a traceback."""
    try:
        app()
    except DicomAssetsError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
