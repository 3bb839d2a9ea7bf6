"""Findings as text for people, and as JSON for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.text import Text

from dicom_assets.core.finding import Finding, Status

VERSION = 1
"""Of the JSON: names stay within a version, new ones may come."""
_SIGNS = {Status.GREEN: "✓", Status.YELLOW: "!", Status.RED: "✗", Status.SKIPPED: "–"}
_STYLES = {Status.GREEN: "green", Status.YELLOW: "yellow", Status.RED: "bold red", Status.SKIPPED: "dim"}


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether no finding is red."""
    return all(finding.status is not Status.RED for finding in findings)


def describe(finding: Finding) -> Text:
    """A line, and for what is not green one more for the reason and what to do."""
    line = Text.assemble(
        (f"{_SIGNS[finding.status]} {finding.status.value:8}", _STYLES[finding.status]),
        (f"{finding.check:18}", "bold"),
        _sentence(finding.found),
    )
    for label, text in (("why", finding.why), ("do", finding.remedy)):
        if text:
            line.append(f"\n  {label:>7}  ", "dim").append(_sentence(text))
    return line


def summarize(findings: Sequence[Finding]) -> str:
    """How many of each colour."""
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)


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
