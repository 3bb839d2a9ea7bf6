"""`dicom-assets changes`: the rows of a table that changed since a version."""

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import parse_time
from dicom_assets.cli.rows import FormatName, OutputFile, RowLimit, build_console, choose_format
from dicom_assets.query.formats import Format

if TYPE_CHECKING:
    from dicom_assets.lake.table_changes import TableChanges


def changes(
    *,
    table: Annotated[str, typer.Argument(help="change_feed, instance, series, study or file_index.")],
    since: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|TIME",
            help="Version of the table that your copy is of, or a time (ISO 8601 with its zone); 'beginning' gives all "
            "rows as inserts.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="VERSION|TIME", help="Version at which the changes end; by default the newest."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps your position, instead of --since; it is replaced once the output is complete. If it "
            "does not exist, all rows come as inserts.",
            dir_okay=False,
        ),
    ] = None,
    kind: FormatName = None,
    output: OutputFile = None,
    rows: RowLimit = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Service of DICOM_SERVICES; required where it lists several.")
    ] = None,
) -> None:
    """Print the net changes of a table's rows since a version.

    Each row has the table's columns, and its change in _change_type:
    insert, update_postimage (the row as it is now) or delete (the row as it
    was). Every key comes once at most. To update a copy, delete the rows with
    the key of a delete, and replace or insert the others by their key. Doing
    so twice does no harm.

    dicom-assets changes instance --since beginning --output all.parquet

    dicom-assets changes instance --since 41 --format jsonl

    dicom-assets changes study --state study.cursor --output study.csv

    Standard error names the version reached: it is the next --since.
    Changes are available for DICOM_RETENTION_HOURS. An older copy has to be
    loaded again, and the message says so.
    Exit code 1: not everything was written, 2: wrong options.
    """
    from dicom_assets.config.connections import build_lake
    from dicom_assets.config.services import load_service
    from dicom_assets.lake.table_changes import open_changes
    from dicom_assets.query.change_data import find_table
    from dicom_assets.query.cursor import ChangesCursor, read_cursor, write_cursor
    from dicom_assets.query.grid import show_rows

    chosen = choose_format(kind, output)
    if (since is None) == (state is None):
        raise typer.BadParameter("give one of the two: a version, or the file of it", param_hint="--since/--state")
    if state is not None and chosen is Format.TABLE:
        raise typer.BadParameter("the screen keeps no copy of the rows: add --format or --output", param_hint="--state")
    start = None if since is None else _parse_version(since, "--since")
    end = None if until is None else _parse_version(until, "--until")
    settings = load_service(service)
    chosen_table = find_table(settings, table)
    cursor = None if state is None else read_cursor(state, table)
    if cursor is not None:
        start, end = (None if cursor.is_at_beginning else cursor.version), cursor.pending or end
    found = open_changes(build_lake(settings), chosen_table, start, end, table_id=cursor.table_id if cursor else None)
    if cursor is not None and cursor.pending is not None:
        typer.echo(f"The last call did not end: its changes, up to version {cursor.pending}, come again.", err=True)
    if state is not None:
        write_cursor(state, ChangesCursor(table, found.table_id, found.since, found.version))
    if chosen is Format.TABLE:
        show_rows(build_console(), found.schema, found, limit=rows)
    else:
        _write_changes(found, chosen, output)
    next_call = f"; next time: --since {found.version}"
    if state is not None:
        write_cursor(state, ChangesCursor(table, found.table_id, found.version))
        next_call = f", kept in {state}."
    typer.echo(f"Reached version {found.version} of {table}{next_call}", err=True)


def _write_changes(changes: "TableChanges", kind: Format, output: Path | None) -> None:
    """Write all changes, and print the number of changes of each type to standard error."""
    from dicom_assets.core.tables.row_changes import CHANGE_TYPE, ChangeType
    from dicom_assets.query.output import open_output, write_rows

    with open_output(output) as sink:
        counts = write_rows(changes, changes.schema, kind, sink, count_by=CHANGE_TYPE)
    numbers = zip((counts[each] for each in ChangeType), ("inserted", "updated", "deleted"), strict=True)
    typer.echo(f"{changes.table.name}: {', '.join(f'{count:,} {done}' for count, done in numbers)}.", err=True)


def _parse_version(text: str, option: str) -> int | datetime | None:
    """Parse a version or a time; return None for the beginning."""
    if text == "beginning" and option == "--since":
        return None
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return parse_time(text, option, expected="a version, nor an ISO 8601 time")
