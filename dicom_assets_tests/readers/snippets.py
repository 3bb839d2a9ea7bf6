"""The Python on pages of the documentation."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "readers.md"


def snippets(page: str = PAGE.stem) -> dict[str, list[str]]:
    """A page's Python by section."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", (DOCS / f"{page}.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.partition("\n")[0]
        found[title] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def execute(snippet: str, names: dict[str, Any]) -> dict[str, Any]:
    """The names that are there once the snippet has run."""
    exec(compile(snippet, str(DOCS), "exec"), names)
    return names
