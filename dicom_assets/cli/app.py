"""The command line `dicom-assets …`, assembled from the files of its commands.

A command imports its modules inside its function, so that `--help` is fast.
"""

import sys

import typer

from dicom_assets.cli.adopt import adopt
from dicom_assets.cli.changes import changes
from dicom_assets.cli.demo import demo
from dicom_assets.cli.dev import dev
from dicom_assets.cli.doctor import doctor
from dicom_assets.cli.emulator import emulator
from dicom_assets.cli.extras import describe_missing_extra
from dicom_assets.cli.fabric_shortcuts import fabric_shortcuts
from dicom_assets.cli.init import init
from dicom_assets.cli.maintain import maintain
from dicom_assets.cli.sql import sql
from dicom_assets.config.project import link_pages
from dicom_assets.core.errors import DicomAssetsError

app = typer.Typer(
    name="dicom-assets",
    help="Dagster assets that keep Delta tables in step with the change feed of a DICOM service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold patient data
)
for command in (init, demo, dev, fabric_shortcuts, maintain, doctor, adopt, emulator, sql, changes):
    app.command()(command)


def main() -> None:
    """Run the command line; print an error of the project as a message instead of a traceback.

    The exit code is 1 for an error of the project, and 2 where an extra of the project is not installed.
    """
    try:
        app()
    except DicomAssetsError as error:
        typer.echo(f"Error: {link_pages(str(error))}", err=True)
        sys.exit(2 if isinstance(error.__cause__, ImportError) else 1)
    except ModuleNotFoundError as error:
        message = describe_missing_extra(error)
        if message is None:
            raise
        typer.echo(f"Error: {message}", err=True)
        sys.exit(2)
