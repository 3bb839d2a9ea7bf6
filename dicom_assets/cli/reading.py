"""The commands that read the tables: `dicom-assets sql` and `dicom-assets changes`."""

import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import parse_time
from dicom_assets.query.formats import Format

if TYPE_CHECKING:
    from rich.console import Console

    from dicom_assets.lake.table_changes import TableChanges
    from dicom_assets.query.sql.engine import AsOf

commands = typer.Typer()

_Output = Annotated[
    Path | None,
    typer.Option(
        help="File to write, whose ending says the format where --format does not; it appears when it is complete.",
        dir_okay=False,
    ),
]
_Rows = Annotated[
    int | None, typer.Option(help="Rows to show on the screen, 0 for all; by default as many as have room.", min=0)
]
_Service = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of the services that DICOM_SERVICES lists, where it does.")
]
_ENDINGS = {f".{kind}": kind for kind in Format if kind is not Format.TABLE} | {".ndjson": Format.JSONL}
_BEGINNING = "beginning"


@commands.command()
def sql(
    *,
    statement: Annotated[str | None, typer.Argument(help="One SQL statement; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File that holds the statement.", exists=True, dir_okay=False)
    ] = None,
    kind: Annotated[
        Format | None, typer.Option("--format", help="How rows are written; csv, json, jsonl and parquet stream.")
    ] = None,
    output: _Output = None,
    rows: _Rows = None,
    service: _Service = None,
    as_of: Annotated[
        str | None, typer.Option(help="Ask the tables as they were at a time: ISO 8601 with its zone.")
    ] = None,
    table_version: Annotated[
        list[str] | None, typer.Option(metavar="TABLE=N", help="Ask version N of a table; may be repeated.")
    ] = None,
) -> None:
    """Ask the tables with SQL: change_feed, instance, series, study, file_index.

    SHOW TABLES lists them, DESCRIBE instance the columns of one. Names need
    no quotes, and their capitals count; text goes into single quotes. The
    dialect is Apache DataFusion's: SHOW FUNCTIONS lists what it can do.
    Statements that write are refused.

    dicom-assets sql "SELECT modality, count(*) FROM instance GROUP BY 1"

    dicom-assets sql -f cohort.sql --output cohort.parquet

    dicom-assets sql "SELECT count(*) FROM study" --as-of 2026-03-01T00:00Z

    The lake is that of the settings (DICOM_STORAGE_URL and so on). Of several
    services (DICOM_SERVICES) a table has the rows of all, with the service in
    serviceName; north.instance has those of one, and --service leaves out the
    others.
    Exit code 1: the query failed, 2: the options do not go together.
    """
    from dicom_assets.config.connections import build_lake
    from dicom_assets.config.services import choose_services
    from dicom_assets.core.memory import MemoryLimit
    from dicom_assets.query.grid import show_plan, show_rows
    from dicom_assets.query.sql.engine import ask

    text = _read_statement(statement, file)
    chosen = _choose_format(kind, output)
    services = choose_services(service, os.environ)
    if table_version and len(services) > 1 and not services[0].shares_tables:
        raise typer.BadParameter("each service has versions of its own: add --service", param_hint="--table-version")
    tables = services[0].tables
    versions = _parse_versions(as_of, table_version or [], [table.name for table in tables])
    memory = MemoryLimit(services[0].max_memory_mb)
    lakes = {each.service_name or "": build_lake(each) for each in services}
    lake = lakes if len(lakes) > 1 else lakes.popitem()[1]
    answer = ask(lake, text, tables=tables, as_of=versions, memory=memory)
    if chosen is Format.TABLE and answer.is_plan:
        show_plan(_console(), answer)
    elif chosen is Format.TABLE:
        show_rows(_console(), answer.schema, answer, limit=rows, count=answer.count)
    else:
        from dicom_assets.query.output import open_output, write_rows

        with open_output(output) as sink:
            count = write_rows(answer, answer.schema, chosen, sink)["rows"]
        if output is not None:
            typer.echo(f"{count:,} rows in {output}.", err=True)


@commands.command()
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
        str | None, typer.Option(metavar="VERSION|TIME", help="Where the changes end; else at the newest version.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps how far you are, instead of --since. Without it yet, all rows come as inserts; it is "
            "replaced once the output is complete.",
            dir_okay=False,
        ),
    ] = None,
    kind: Annotated[
        Format | None, typer.Option("--format", help="How rows are written; csv, json, jsonl and parquet stream.")
    ] = None,
    output: _Output = None,
    rows: _Rows = None,
    service: _Service = None,
) -> None:
    """Give the rows of a table that changed since a version: the net change.

    Each row has the table's columns, and in _change_type what became of it:
    insert, update_postimage (the row as it is now) or delete (as it was).
    Every key comes once at most. To bring a copy up to date, take out the
    rows with the key of a delete, and put the others in the place of those
    with their key. Doing so twice does no harm.

    dicom-assets changes instance --since beginning --output all.parquet

    dicom-assets changes instance --since 41 --format jsonl

    dicom-assets changes study --state study.cursor --output study.csv

    Standard error says which version was reached: it is the next --since.
    Changes can be had for DICOM_RETENTION_HOURS. An older copy has to be
    loaded anew, and the message says so.
    Exit code 1: not everything was written, 2: wrong options.
    """
    from dicom_assets.config.connections import build_lake
    from dicom_assets.config.services import load_service
    from dicom_assets.lake.table_changes import open_changes
    from dicom_assets.query.change_data import find_table
    from dicom_assets.query.cursor import Cursor, read_cursor, write_cursor
    from dicom_assets.query.grid import show_rows

    chosen = _choose_format(kind, output)
    if (since is None) == (state is None):
        raise typer.BadParameter(
            "give one of the two: since when, or the file that keeps it", param_hint="--since/--state"
        )
    if state is not None and chosen is Format.TABLE:
        raise typer.BadParameter(
            "the screen is no copy to keep in step: add --format or --output", param_hint="--state"
        )
    start = None if since is None else _parse_version(since, "--since")
    end = None if until is None else _parse_version(until, "--until")
    settings = load_service(service, os.environ)
    chosen_table = find_table(settings, table)
    cursor = None if state is None else read_cursor(state, table)
    if cursor is not None:
        start, end = (None if cursor.is_at_beginning else cursor.version), cursor.pending or end
    found = open_changes(build_lake(settings), chosen_table, start, end, table_id=cursor.table_id if cursor else None)
    if cursor is not None and cursor.pending is not None:
        typer.echo(f"The last call did not end: its changes, up to version {cursor.pending}, come again.", err=True)
    if state is not None:
        write_cursor(state, Cursor(table, found.table_id, found.since, found.version))
    if chosen is Format.TABLE:
        show_rows(_console(), found.schema, found, limit=rows)
    else:
        _write_changes(found, chosen, output)
    if state is None:
        typer.echo(f"Reached version {found.version} of {table}; next time: --since {found.version}", err=True)
    else:
        write_cursor(state, Cursor(table, found.table_id, found.version))
        typer.echo(f"Reached version {found.version} of {table}, kept in {state}.", err=True)


def _write_changes(changes: "TableChanges", kind: Format, output: Path | None) -> None:
    """Write all changes, and print the number of changes of each type to standard error."""
    from dicom_assets.core.tables.row_changes import CHANGE_TYPE, ChangeType
    from dicom_assets.query.output import open_output, write_rows

    with open_output(output) as sink:
        counts = write_rows(changes, changes.schema, kind, sink, count_by=CHANGE_TYPE)
    told = ", ".join(f"{counts[each]:,} {name}" for each, name in zip(ChangeType, _DONE, strict=True))
    typer.echo(f"{changes.table.name}: {told}.", err=True)


_DONE = ("inserted", "updated", "deleted")


def _read_statement(statement: str | None, file: Path | None) -> str:
    if (statement is None) == (file is None):
        raise typer.BadParameter("give one: a statement, - for standard input, or --file", param_hint="STATEMENT")
    if file is not None:
        return file.read_text(encoding="utf-8-sig")
    return sys.stdin.read() if statement == "-" else str(statement)


def _choose_format(kind: Format | None, output: Path | None) -> Format:
    """Return the format that --format and --output select together.

    Raises:
        typer.BadParameter: the two options select no format, or do not go together.
    """
    chosen = kind
    if chosen is None:
        chosen = Format.TABLE if output is None else _ENDINGS.get(output.suffix.lower())
    if chosen is None:
        raise typer.BadParameter(f"its ending is none of {', '.join(_ENDINGS)}: add --format", param_hint="--output")
    if output is not None and chosen is Format.TABLE:
        raise typer.BadParameter("a table is for the screen: choose csv, json, jsonl or parquet", param_hint="--format")
    if output is None and chosen is Format.PARQUET and _is_screen():
        raise typer.BadParameter("Parquet is not for the screen: add --output, or a pipe", param_hint="--format")
    return chosen


def _parse_version(text: str, option: str) -> int | datetime | None:
    """Parse a version or a time; return None for the beginning."""
    if text == _BEGINNING and option == "--since":
        return None
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return parse_time(text, option, expected="a version, nor an ISO 8601 time")


def _parse_versions(as_of: str | None, versions: list[str], tables: list[str]) -> "AsOf":
    from dicom_assets.query.sql.engine import AsOf

    by_table = {}
    for each in versions:
        name, _, number = each.partition("=")
        if name not in tables or not re.fullmatch(r"[0-9]{1,18}", number):
            raise typer.BadParameter(
                f"such as instance=17, where tables are {', '.join(tables)}",
                param_hint="--table-version",
            )
        by_table[name] = int(number)
    return AsOf(None if as_of is None else parse_time(as_of, "--as-of"), by_table)


def _is_screen() -> bool:
    return sys.stdout.isatty()


def _console() -> "Console":
    """Return a console as wide as the screen, or, if standard output is piped, wide enough for any table."""
    from rich.console import Console

    piped = not _is_screen() and "COLUMNS" not in os.environ
    return Console(width=_NO_SCREEN) if piped else Console()


_NO_SCREEN = 10_000
