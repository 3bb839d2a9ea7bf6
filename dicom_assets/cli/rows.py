"""Options of `dicom-assets sql` and `dicom-assets changes`, and the output that both have in common."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.query.formats import Format

if TYPE_CHECKING:
    from rich.console import Console

FormatName = Annotated[
    Format | None, typer.Option("--format", help="Output format; csv, json, jsonl and parquet stream.")
]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        help="File to write, complete or not at all. Its ending chooses the format where --format does not.",
        dir_okay=False,
    ),
]
RowLimit = Annotated[
    int | None, typer.Option("--rows", help="Rows to show on the screen, 0 for all; by default as many as fit.", min=0)
]
_ENDINGS = {f".{kind}": kind for kind in Format if kind is not Format.TABLE} | {".ndjson": Format.JSONL}
_WITHOUT_SCREEN = 10_000
"""Width of the output in characters where standard output is piped: wide enough for any table."""


def choose_format(kind: Format | None, output: Path | None) -> Format:
    """Return the format that --format and --output select together.

    Raises:
        typer.BadParameter: The two options select no format, or do not go together.
    """
    chosen = kind
    if chosen is None:
        chosen = Format.TABLE if output is None else _ENDINGS.get(output.suffix.lower())
    if chosen is None:
        raise typer.BadParameter(f"its ending is none of {', '.join(_ENDINGS)}: add --format", param_hint="--output")
    if output is not None and chosen is Format.TABLE:
        raise typer.BadParameter("a table is for the screen: choose csv, json, jsonl or parquet", param_hint="--format")
    if output is None and chosen is Format.PARQUET and is_screen():
        raise typer.BadParameter("Parquet is not for the screen: add --output, or a pipe", param_hint="--format")
    return chosen


def is_screen() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def build_console() -> "Console":
    """Return a console as wide as the screen or, if standard output is piped, wide enough for any table."""
    from rich.console import Console

    return Console() if is_screen() or "COLUMNS" in os.environ else Console(width=_WITHOUT_SCREEN)
