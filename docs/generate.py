"""Generated parts of the documentation: tables from the schema, settings from their declarations, rooms from contracts.

`python docs/generate.py` writes them between their markers; `--check` fails where they are stale, and writes nothing.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rooms import build_rooms, draw_rooms

from dicom_assets.config.settings import SettingRow, describe_settings
from dicom_assets.core.columns.schema import TABLES, Table

DOCS = Path(__file__).parent

GROUPS = {
    "DICOM_SERVICE_URL": "The DICOM service",
    "DICOM_MAX_MEMORY_MB": "Memory, hours and runs",
    "DICOM_STORAGE_URL": "The tables",
    "DICOM_ALERT_WEBHOOK_URL": "Messages about failed runs",
    "DICOM_FABRIC_WORKSPACE_ID": "Shortcuts in Fabric",
    "AZURE_TENANT_ID": "Identities and keys",
}
"""Headings of the settings, each by the first variable under it."""


def build_overview() -> str:
    """Return the names of the tables and what a row is, each with a link to its columns."""
    rows = ((f"[`{table.name}`](docs/tables.md#{table.name})", table.row) for table in TABLES)
    return _build_grid(("table", "one row is"), rows)


def build_tables() -> str:
    """Return the tables with their keys, then the columns of each under a heading of its own."""
    rows = ((f"[`{table.name}`](#{table.name})", table.row, _build_codes(table.key)) for table in TABLES)
    return "\n\n".join([_build_grid(("table", "one row is", "key"), rows), *map(_build_columns, TABLES)])


def build_settings() -> str:
    """Return every setting with its default and meaning, in groups."""
    groups: dict[str, list[SettingRow]] = {}
    for row in describe_settings():
        if row.variable in GROUPS:
            rows = groups[GROUPS[row.variable]] = []
        rows.append(row)
    return "\n\n".join(f"## {heading}\n\n{_build_group(rows)}" for heading, rows in groups.items())


def _build_group(settings: Iterable[SettingRow]) -> str:
    rows = (
        (f"`{row.variable}`", f"`{row.default}`" if row.default else "—", _link_pages(row.meaning)) for row in settings
    )
    return _build_grid(("variable", "default", "meaning"), rows)


def _build_columns(table: Table) -> str:
    rows = ((f"`{column.name}`", column.type_name, column.tag or "", column.description) for column in table.columns)
    columns = _build_grid(("column", "type", "DICOM tag", "meaning"), rows)
    return f"## {table.name}\n\nOne row is {table.row}; {len(table.columns)} columns.\n\n{columns}"


def _link_pages(text: str) -> str:
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)


def _build_codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _build_grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PARTS: dict[Path, tuple[str, Callable[[], str]]] = {
    DOCS.parent / "README.md": ("overview", build_overview),
    DOCS / "tables.md": ("tables", build_tables),
    DOCS / "settings.md": ("settings", build_settings),
    DOCS / "architecture.md": ("rooms", build_rooms),
}


def fill_in(page: Path) -> str:
    """Return the text of a page with its generated part as it should be."""
    name, build = PARTS[page]
    block = re.compile(rf"(<!-- generated: {name} [^\n]*-->\n)(?:.*?\n)??(<!-- end of {name} -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    if not block.search(text):
        raise SystemExit(f"{page.name} has no markers for its generated part {name!r}.")
    content = build()
    return block.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def main() -> None:
    """Write the generated parts, or check them with `--check`."""
    pages = {page: fill_in(page) for page in PARTS} | {DOCS / "images" / "rooms.svg": draw_rooms()}
    if "--check" not in sys.argv[1:]:
        for page, text in pages.items():
            page.write_text(text, encoding="utf-8")
    elif stale := [page.name for page, text in pages.items() if page.read_text(encoding="utf-8") != text]:
        raise SystemExit(f"The generated parts of {', '.join(stale)} are stale: run `make docs` and commit the result.")


if __name__ == "__main__":
    main()
