"""`dicom-assets demo`: a day of the embedded DICOM service in Delta tables, and queries of the tables."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_assets.cli.options import InstanceCount, end_by_signals


def demo(
    *,
    service_folder: Annotated[
        Path, typer.Option(help="Folder where the embedded service keeps its state.", file_okay=False)
    ] = Path("data/service"),
    dagster_home: Annotated[Path, typer.Option(help="Folder where Dagster keeps its history.", file_okay=False)] = Path(
        ".dagster"
    ),
    hours: Annotated[int, typer.Option(help="Hours of history of a new service.", min=1, max=720)] = 24,
    instances: InstanceCount = 2000,
) -> None:
    """Store a day of the embedded DICOM service in Delta tables, and query them."""
    from rich.console import Console

    from dicom_assets.demo.demo import run_demo
    from dicom_assets.demo.embedded import Day

    end_by_signals()
    try:
        run_demo(Console(), folder=service_folder, home=dagster_home, day=Day(hours, instances), env=os.environ)
    except KeyboardInterrupt:
        typer.echo("Stopped. Every table holds whole commits: run the command again to finish.", err=True)
        sys.exit(130)
