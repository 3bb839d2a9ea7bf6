"""`dicom-assets sql`: the answer to an SQL statement, on the screen or in a file."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import ServiceName, parse_time
from dicom_assets.cli.rows import FormatName, OutputFile, RowLimit, build_console, choose_format
from dicom_assets.query.formats import Format

if TYPE_CHECKING:
    from dicom_assets.query.sql.engine import AsOf


def sql(
    *,
    statement: Annotated[str | None, typer.Argument(help="One SQL statement; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File that holds the statement.", exists=True, dir_okay=False)
    ] = None,
    kind: FormatName = None,
    output: OutputFile = None,
    rows: RowLimit = None,
    service: ServiceName = None,
    as_of: Annotated[
        str | None, typer.Option(help="Time at which to read the tables, instead of now: ISO 8601 with its zone.")
    ] = None,
    table_version: Annotated[
        list[str] | None, typer.Option(metavar="TABLE=N", help="Version of a table to read; may be repeated.")
    ] = None,
) -> None:
    """Query the tables with SQL: change_feed, instance, series, study, file_index.

    SHOW TABLES lists them, DESCRIBE instance the columns of one. Names need
    no quotes, and are case-sensitive; text goes into single quotes. The
    dialect is Apache DataFusion's: SHOW FUNCTIONS lists its functions.
    Statements that write are refused.

    dicom-assets sql "SELECT modality, count(*) FROM instance GROUP BY 1"

    dicom-assets sql -f cohort.sql --output cohort.parquet

    dicom-assets sql "SELECT count(*) FROM study" --as-of 2026-03-01T00:00Z

    The settings name the lake (DICOM_STORAGE_URL and so on). With several
    services (DICOM_SERVICES) a table has the rows of all, with the service in
    serviceName; north.instance has the rows of one, and --service leaves out
    the others.
    Exit code 1: the query failed, 2: the options do not go together.
    """
    from dicom_assets.config.connections import build_lake
    from dicom_assets.config.services import choose_services
    from dicom_assets.core.memory import MemoryLimit
    from dicom_assets.query.grid import show_plan, show_rows
    from dicom_assets.query.sql.engine import ask

    text = _read_statement(statement, file)
    chosen = choose_format(kind, output)
    services = choose_services(service)
    if table_version and len(services) > 1 and not services[0].shares_tables:
        raise typer.BadParameter("each service has versions of its own: add --service", param_hint="--table-version")
    tables = services[0].tables
    versions = _parse_versions(as_of, table_version or [], [table.name for table in tables])
    memory = MemoryLimit(services[0].max_memory_mb)
    lakes = {each.service_name or "": build_lake(each) for each in services}
    lake = lakes if len(lakes) > 1 else lakes.popitem()[1]
    answer = ask(lake, text, tables=tables, as_of=versions, memory=memory)
    if chosen is Format.TABLE and answer.is_plan:
        show_plan(build_console(), answer)
    elif chosen is Format.TABLE:
        show_rows(build_console(), answer.schema, answer, limit=rows, count=answer.count)
    else:
        from dicom_assets.query.output import open_output, write_rows

        with open_output(output) as sink:
            count = write_rows(answer, answer.schema, chosen, sink)["rows"]
        if output is not None:
            typer.echo(f"{count:,} rows in {output}.", err=True)


def _read_statement(statement: str | None, file: Path | None) -> str:
    if (statement is None) == (file is None):
        raise typer.BadParameter("give one: a statement, - for standard input, or --file", param_hint="STATEMENT")
    if file is not None:
        return file.read_text(encoding="utf-8-sig")
    return sys.stdin.read() if statement == "-" else str(statement)


def _parse_versions(as_of: str | None, versions: list[str], tables: list[str]) -> "AsOf":
    from dicom_assets.query.sql.engine import AsOf

    by_table = {}
    for each in versions:
        name, _, number = each.partition("=")
        if name not in tables or not re.fullmatch(r"[0-9]{1,18}", number):
            raise typer.BadParameter(
                f"such as instance=17, where tables are {', '.join(tables)}", param_hint="--table-version"
            )
        by_table[name] = int(number)
    return AsOf(None if as_of is None else parse_time(as_of, "--as-of"), by_table)
