"""The generated parts of the README: tables from the schema, settings from their declarations.

`python docs/generate.py` writes them between their markers; `--check` fails where they are stale, and writes nothing.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from dicom_assets.core.schema import TABLES, Table
from dicom_assets.settings import describe_settings

README = Path(__file__).parents[1] / "README.md"


def build_tables() -> str:
    """The five tables, and the columns of each folded away."""
    overview = _grid(
        ("table", "one row is", "key"),
        ((f"`{table.name}`", table.row, _codes(table.key)) for table in TABLES),
    )
    return "\n\n".join([overview, *map(_build_columns, TABLES)])


def build_settings() -> str:
    """Every setting with its default and meaning."""
    rows = (
        (f"`{row.variable}`", f"`{row.default}`" if row.default else "—", row.meaning) for row in describe_settings()
    )
    return _grid(("variable", "default", "meaning"), rows)


def _build_columns(table: Table) -> str:
    rows = ((f"`{column.name}`", column.type_name, column.tag or "", column.description) for column in table.columns)
    columns = _grid(("column", "type", "DICOM tag", "meaning"), rows)
    return (
        f"<details><summary>Columns of <code>{table.name}</code> ({len(table.columns)})</summary>\n\n"
        f"{columns}\n\n</details>"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PARTS = {"tables": build_tables, "settings": build_settings}


def fill_in(text: str) -> str:
    """The text with every generated part as it should be."""
    for name, build in PARTS.items():
        block = re.compile(rf"(<!-- generated: {name} [^\n]*-->\n)(?:.*?\n)??(<!-- end of {name} -->)", re.DOTALL)
        if not block.search(text):
            raise SystemExit(f"README.md has no markers for its generated part {name!r}.")
        content = build()
        text = block.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def main() -> None:
    """Write, or check with `--check`."""
    old = README.read_text(encoding="utf-8")
    new = fill_in(old)
    if "--check" not in sys.argv[1:]:
        README.write_text(new, encoding="utf-8")
    elif new != old:
        raise SystemExit("The generated parts of README.md are stale: run `make docs` and commit what it writes.")


if __name__ == "__main__":
    main()
