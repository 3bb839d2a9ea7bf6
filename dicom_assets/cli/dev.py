"""`dicom-assets dev`: an embedded DICOM service that keeps changing, and Dagster that reads it."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_assets.cli.options import InstanceCount, end_by_signals


def dev(
    *,
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    service_port: Annotated[int, typer.Option(help="Port of the embedded service; 0 takes a free port.")] = 8080,
    folder: Annotated[
        Path, typer.Option(help="Folder of the service, its tables and Dagster's history.", file_okay=False)
    ] = Path("data/dev"),
    hours: Annotated[int, typer.Option(help="Hours of history of a new service, up to now.", min=1, max=720)] = 12,
    instances: InstanceCount = 1000,
    per_minute: Annotated[
        float, typer.Option(help="Changes of the service per minute, on average; 0 for none.", min=0, max=600)
    ] = 6,
) -> None:
    """Run an embedded DICOM service that keeps changing, and Dagster on it, until Ctrl-C."""
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
