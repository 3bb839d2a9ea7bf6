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
"""Version of the JSON: within a version names stay, and new ones may be added."""
_SIGNS = {Status.GREEN: "✓", Status.YELLOW: "!", Status.RED: "✗", Status.SKIPPED: "–"}
_STYLES = {Status.GREEN: "green", Status.YELLOW: "yellow", Status.RED: "bold red", Status.SKIPPED: "dim"}


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Return whether no finding is red."""
    return all(finding.status is not Status.RED for finding in findings)


def print_findings(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Print each finding as it comes, then a summary; return all findings.

    Checks that were skipped in a row for one reason share a line.
    """
    printed: list[Finding] = []
    width = console.width if console.is_terminal else None

    def print_text(text: RenderableType) -> None:
        console.print(text, highlight=False, soft_wrap=width is None)

    for skipped_because, group in groupby(findings, lambda each: each.found if each.status is Status.SKIPPED else None):
        if skipped_because is None:
            for finding in group:
                printed.append(finding)
                print_text(describe(finding, width))
        else:
            skipped = list(group)
            printed += skipped
            print_text(describe(_join_skipped(skipped), width))
    print_text(Text("\n").append(summarize(printed)))
    return printed


def _join_skipped(skipped: Sequence[Finding]) -> Finding:
    """Return one finding for checks that were skipped for one reason."""
    first, *others = skipped
    if not others:
        return first
    return replace(first, found=f"{first.found}; the same for {', '.join(finding.check for finding in others)}")


def describe(finding: Finding, width: int | None = None) -> Text | Table:
    """Return a finding as text: one line, and below it one line each for the reason and the remedy, where given.

    Args:
        finding: finding of a check.
        width: width of the terminal in characters, to break long lines between words; None leaves lines whole.
    """
    sign = (f"{_SIGNS[finding.status]} {finding.status.value:8}", _STYLES[finding.status])
    lines = [(Text.assemble(sign, (f"{finding.check:17} ", "bold")), finding.found)]
    for label, text in (("why", finding.why), ("do", finding.remedy)):
        if text:
            lines.append((Text(f"{label:>26}  ", "dim"), text))
    if width is None:
        return Text("\n").join(head + _end_sentence(text) for head, text in lines)
    rows = Table.grid()
    side = max(28, len(lines[0][0]))  # with several services a check's name includes the service's
    rows.add_column(width=side, no_wrap=True)
    rows.add_column(overflow="fold", width=max(width - side, 20))
    for head, text in lines:
        rows.add_row(head, _end_sentence(text))
    return rows


def summarize(findings: Sequence[Finding]) -> Text:
    """Return the number of findings by status, and the checks that make runs fail."""
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    summary = Text(", ").join(
        Text(f"{count} {status.value}", _STYLES[status]) for status, count in counts.items() if count
    )
    red = [finding.check for finding in findings if finding.status is Status.RED]
    return summary.append(f": fix {', '.join(red)}, or runs will fail." if red else ".")


def to_json(findings: Sequence[Finding]) -> str:
    """Return the findings as one JSON object.

    It has `version`, `healthy`, and `findings` with `check`, `status`, `found`, `why`, `remedy` and `facts`.
    """
    content = {
        "version": VERSION,
        "healthy": is_healthy(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _end_sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
