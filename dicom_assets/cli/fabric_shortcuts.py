"""`dicom-assets fabric-shortcuts`: create or correct the shortcuts of a Fabric lakehouse, and print the outcomes."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import DryRun, ServiceName, run_for_each

if TYPE_CHECKING:
    from dicom_assets.config.settings import Settings


def fabric_shortcuts(
    *,
    workspace: Annotated[
        str | None, typer.Option(help="ID of the workspace; by default DICOM_FABRIC_WORKSPACE_ID.")
    ] = None,
    lakehouse: Annotated[
        str | None, typer.Option(help="ID of the lakehouse; by default DICOM_FABRIC_LAKEHOUSE_ID.")
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option(help="ID of Fabric's connection to the storage account; by default DICOM_FABRIC_CONNECTION_ID."),
    ] = None,
    tables: Annotated[
        str | None, typer.Option(help="Tables, such as instance,series=ct_series; by default DICOM_FABRIC_TABLES.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="Schema in the lakehouse; by default DICOM_FABRIC_SCHEMA.")] = None,
    service: ServiceName = None,
    files: Annotated[
        bool, typer.Option(help="Include the DICOM files, where DICOM_FILE_SYSTEM_URL is in Azure.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Change shortcuts that point elsewhere.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Create or correct the shortcuts to the tables in a Fabric lakehouse."""
    from rich.console import Console
    from rich.table import Table

    from dicom_assets.config.services import choose_services
    from dicom_assets.fabric.wanted import update_shortcuts

    given = {
        "WORKSPACE_ID": workspace,
        "LAKEHOUSE_ID": lakehouse,
        "CONNECTION_ID": connection,
        "TABLES": tables,
        "SCHEMA": schema,
    }
    options = {f"DICOM_FABRIC_{name}": value for name, value in given.items() if value is not None}
    services = choose_services(service, {**os.environ, **options})

    def update(settings: "Settings") -> int:
        outcomes = update_shortcuts(
            settings,
            replace=replace,
            dry_run=dry_run,
            with_tables=settings is services[0] or not settings.shares_tables,  # shared tables: only once
            with_files=files,
        )
        table = Table("shortcut", "target", "dry run" if dry_run else "result")
        for outcome in outcomes:
            color = "red" if outcome.problem else "green"
            done = f"[{color}]{outcome.describe(dry_run=dry_run)}[/]"
            table.add_row(outcome.shortcut.path, outcome.shortcut.target.place, done)
        Console().print(table)
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        for problem in problems:
            typer.echo(f"Error: {problem}", err=True)
        return 1 if problems else 0

    sys.exit(run_for_each(services, update))
