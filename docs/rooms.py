"""Drawing and table of the rooms in `dicom_assets/`, from the import contracts and each room's own words."""

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dicom_assets"
WIDTH, MARGIN, GAP, LINE, LETTER = 960, 44, 10, 18, 7.0
"""Sizes in pixels; a letter of the small text is `LETTER` wide."""


def read_layers(container: str = "dicom_assets") -> list[list[str]]:
    """Return the rooms of a package, as its contract has them: layers from the top down, rooms side by side."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == [container])
    return [layer.split(" | ") for layer in layers]


def read_words(room: str) -> tuple[str, str]:
    """Return what a room does, and the rest of its docstring: what it never does, and where to begin."""
    module = PACKAGE / room / "__init__.py"
    path = module if module.exists() else PACKAGE / f"{room}.py"
    does, _, rest = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")
    return " ".join(does.split()), " ".join(rest.split())


def build_rooms() -> str:
    """Return a table of the rooms, from the top down."""
    lines = ["| room | what it does | never, and where to begin |", "| --- | --- | --- |"]
    for room in [room for layer in read_layers() for room in layer]:
        does, rest = read_words(room)
        name = f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
        lines.append(f"| `{name}` | {does} | {rest} |")
    return "\n".join(lines)


def draw_rooms() -> str:
    """Return an SVG of the rooms: a row for each layer of the contract, which imports only from rows below."""
    rows, top = [], 56
    for layer in read_layers():
        width = (WIDTH - 2 * MARGIN - GAP * (len(layer) - 1)) / len(layer)
        texts = {
            room: textwrap.wrap(escape(read_words(room)[0].replace("`", "")), int((width - 150) / LETTER))
            for room in layer
        }
        height = 16 + LINE * max(map(len, texts.values()))
        for index, room in enumerate(layer):
            left = MARGIN + index * (width + GAP)
            rows.append(f'<rect class="b" x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" rx="5"/>')
            rows.append(f'<text class="h" x="{left + 12:.0f}" y="{top + 22}">{room}</text>')
            for number, line in enumerate(texts[room]):
                rows.append(f'<text class="s" x="{left + 130:.0f}" y="{top + 22 + LINE * number}">{line}</text>')
        top += height + GAP
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 14}" width="{WIDTH}" '
        f'height="{top + 14}" role="img" aria-labelledby="t" font-family="system-ui, Segoe UI, Helvetica, sans-serif">',
        '<title id="t">Rooms of dicom_assets: each imports only from rows below its own</title>',
        "<style>.b{fill:#fff;stroke:#5b6b7c;stroke-width:1.3}.h{font-weight:600;font-size:15px;fill:#1b2733}"
        ".s{fill:#4a5866;font-size:13px}</style>",
        f'<rect width="{WIDTH}" height="{top + 14}" rx="8" fill="#fbfcfd"/>',
        f'<text class="s" x="{MARGIN}" y="34">A room imports only from rows below its own. Begin at the bottom to '
        "learn the rules, at the top to follow a command.</text>",
        f'<path d="M22 56V{top - 22}" fill="none" stroke="#2f6fb0" stroke-width="2"/>',
        f'<path d="M16 {top - 24}h12l-6 12z" fill="#2f6fb0"/>',
        *rows,
        "</svg>\n",
    ])  # fmt: skip
