"""Generated parts of Markdown documents."""

import re
from collections.abc import Iterable
from pathlib import Path


def grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table, whose first column is text and whose others are numbers."""
    align = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, align, *rows])


def fill_in(document: Path, text: str, parts: dict[str, str]) -> str:
    """The document's text with other content between the markers of its parts."""
    for name, content in parts.items():
        block = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not block.search(text):
            raise SystemExit(f"{document} has no markers for {name!r}.")
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text
