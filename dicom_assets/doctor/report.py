"""Findings as text for people, and as JSON for machines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dicom_assets.core.finding import Finding, Status

VERSION = 1
"""Of the JSON: names stay within a version, new ones may come."""
_SIGNS = {Status.GREEN: "✓", Status.YELLOW: "!", Status.RED: "✗", Status.SKIPPED: "–"}
_STYLES = {Status.GREEN: "green", Status.YELLOW: "yellow", Status.RED: "bold red", Status.SKIPPED: "dim"}


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether no finding is red."""
    return all(finding.status is not Status.RED for finding in findings)


def tell(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Prints each finding as it comes, those skipped in a row for one reason in one line, and their sum; gives all."""
    told: list[Finding] = []
    width = console.width if console.is_terminal else None

    def say(text: RenderableType) -> None:
        console.print(text, highlight=False, soft_wrap=width is None)

    for skipped_because, group in groupby(findings, lambda each: each.found if each.status is Status.SKIPPED else None):
        if skipped_because is None:
            for finding in group:
                told.append(finding)
                say(describe(finding, width))
        else:
            skipped = list(group)
            told += skipped
            say(describe(_join(skipped), width))
    say(Text("\n").append(summarize(told)))
    return told


def _join(skipped: Sequence[Finding]) -> Finding:
    """What were skipped for one reason, as one."""
    first, *others = skipped
    if not others:
        return first
    return replace(first, found=f"{first.found}; the same for {', '.join(finding.check for finding in others)}")


def describe(finding: Finding, width: int | None = None) -> Text | Table:
    """A line, and for what is not green one more for the reason and what to do.

    Args:
        finding: what a check found.
        width: of the terminal, where long lines are to be broken between words; None leaves them whole.
    """
    sign = (f"{_SIGNS[finding.status]} {finding.status.value:8}", _STYLES[finding.status])
    lines = [(Text.assemble(sign, (f"{finding.check:17} ", "bold")), finding.found)]
    for label, text in (("why", finding.why), ("do", finding.remedy)):
        if text:
            lines.append((Text(f"{label:>26}  ", "dim"), text))
    if width is None:
        return Text("\n").join(head + _sentence(text) for head, text in lines)
    rows = Table.grid()
    side = max(28, len(lines[0][0]))  # of several services a check bears the service's name too
    rows.add_column(width=side, no_wrap=True)
    rows.add_column(overflow="fold", width=max(width - side, 20))
    for head, text in lines:
        rows.add_row(head, _sentence(text))
    return rows


def summarize(findings: Sequence[Finding]) -> Text:
    """How many of each colour, and what that means."""
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    summary = Text(", ").join(
        Text(f"{count} {status.value}", _STYLES[status]) for status, count in counts.items() if count
    )
    red = [finding.check for finding in findings if finding.status is Status.RED]
    return summary.append(f": mend {', '.join(red)}, or runs will fail." if red else ".")


def to_json(findings: Sequence[Finding]) -> str:
    """One object: `version`, `healthy`, and `findings` with `check`, `status`, `found`, `why`, `remedy`, `facts`."""
    content = {
        "version": VERSION,
        "healthy": is_healthy(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
