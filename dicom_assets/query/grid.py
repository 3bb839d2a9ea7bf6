"""Rows on a screen: a table if it fits the screen, else one block of lines per row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from dicom_assets.query.output import name_type, to_json

ROWS_OF_TABLE = 50
ROWS_OF_BLOCKS = 10
_LONGEST_CELL = 64
"""Most characters of a value in a table that would otherwise be too wide; a UID has at most 64, so none is cut."""
_LONGEST_VALUE = 240
_FOLDED_WIDTH = 24
"""Fewest characters in a line of folded text."""
_BORDERS = 3
"""Characters that each column takes for border and padding."""


def show_rows(
    console: Console,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    limit: int | None = None,
    count: Callable[[], int | None] = lambda: None,
) -> None:
    """Print rows, and the number of rows.

    Args:
        console: console for the output.
        schema: schema of the rows.
        batches: rows; read only as far as necessary.
        limit: number of rows to show, 0 for all rows; by default as many as fit on one or two screens.
        count: function that returns the number of rows without reading them, or None if that is not possible.
    """
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    looked_at = ROWS_OF_TABLE if limit is None else limit
    cells = [[_format_value(value) for value in row] for row in islice(rows, looked_at + 1 if looked_at else None)]
    total = len(cells)
    if total > looked_at > 0:
        counted = count()
        total = total + sum(1 for _ in rows) if counted is None else counted
        cells = cells[:looked_at]
    longest = _LONGEST_VALUE
    columns = _measure_columns(schema, cells, longest)
    if _add_widths(column.width for column in columns) > console.width:
        longest = _LONGEST_CELL
        columns = _measure_columns(schema, cells, longest)
    if _add_widths(column.least_width for column in columns) <= console.width:
        _print_table(console, columns, cells, longest)
    else:
        longest = _LONGEST_VALUE
        cells = cells[:ROWS_OF_BLOCKS] if limit is None else cells
        _print_blocks(console, schema, cells)
    was_cut = any(len(value) > longest for row in cells for value in row if value is not None)
    _print_summary(console, len(cells), total, was_cut=was_cut)


def show_plan(console: Console, batches: Iterable[pa.RecordBatch]) -> None:
    """Print the plans of a query, with unchanged lines."""
    for batch in batches:
        for kind, plan in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            console.print(Text(kind, "bold"))
            console.print(Text("\n".join(map(_escape, plan.splitlines()))), soft_wrap=True)


@dataclass(frozen=True)
class _Column:
    """Layout of a column in a table."""

    name: str
    type_name: str
    is_number: bool
    width: int
    """Width in characters, without folding."""
    is_prose: bool
    """True if every long value consists of words, and so may be folded; a UID or a path may not be folded."""

    @classmethod
    def measure(cls, field: pa.Field, values: Sequence[str | None], longest: int) -> "_Column":
        cells = [_build_cell(value, longest).plain for value in values]
        long = [cell for cell in cells if len(cell) > _FOLDED_WIDTH]
        name, type_name = _escape(field.name), name_type(field.type)
        width = max(map(cell_len, [name, type_name, *cells]))
        is_prose = pa.types.is_string(field.type) and all(" " in cell for cell in long)
        return cls(name, type_name, _is_number(field.type), width, bool(is_prose))

    @property
    def least_width(self) -> int:
        """Least width in characters."""
        return max(_FOLDED_WIDTH, cell_len(self.name)) if self.is_prose and self.width > _FOLDED_WIDTH else self.width


def _measure_columns(schema: pa.Schema, rows: Sequence[Sequence[str | None]], longest: int) -> list[_Column]:
    return [_Column.measure(schema.field(place), [row[place] for row in rows], longest) for place in range(len(schema))]


def _add_widths(widths: Iterable[int]) -> int:
    """Return the width of a table in characters, from the widths of its columns."""
    return sum(width + _BORDERS for width in widths) + 1


def _print_table(
    console: Console, columns: Sequence[_Column], rows: Sequence[Sequence[str | None]], longest: int
) -> None:
    grid = Grid(header_style="")
    for column in columns:
        heading = Text(column.name, "bold").append(f"\n{column.type_name}", "not bold dim")
        justify: Literal["right", "left"] = "right" if column.is_number else "left"
        grid.add_column(heading, justify=justify, no_wrap=not column.is_prose, min_width=column.least_width)
    for row in rows:
        grid.add_row(*(_build_cell(value, longest) for value in row))
    console.print(grid)


def _print_blocks(console: Console, schema: pa.Schema, rows: Sequence[Sequence[str | None]]) -> None:
    width = max((cell_len(_escape(name)) for name in schema.names), default=0)
    for number, row in enumerate(rows, 1):
        console.rule(f"row {number}", align="left", style="dim")
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="cyan", no_wrap=True, min_width=min(width, console.width // 2))
        grid.add_column(overflow="fold")
        for name, value in zip(schema.names, row, strict=True):
            grid.add_row(_escape(name), _build_cell(value, _LONGEST_VALUE))
        console.print(grid)


def _print_summary(console: Console, shown: int, total: int, *, was_cut: bool) -> None:
    text = f"{total:,} row{'' if total == 1 else 's'}"
    if shown < total:
        text = f"{shown:,} of {text}; {total - shown:,} more are not shown: --rows 0 shows all, --format writes all"
    if was_cut:
        text += ". Long values are cut (…): --format gives them whole"
    console.print(f"{text}.", style="dim", highlight=False)


def _format_value(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | list | dict | bytes):
        return to_json(value)
    return str(value)


def _build_cell(value: str | None, longest: int) -> Text:
    if value is None:
        return Text("NULL", "dim italic")
    return Text(_escape(value if len(value) <= longest else f"{value[: longest - 1]}…"))


def _escape(text: str) -> str:
    """Return a text with control characters escaped, such as terminal escapes that move the cursor or set colours."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
