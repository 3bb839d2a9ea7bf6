"""Findings: results of the checks of the environment, such as settings, storage and service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_assets.core.errors import DicomAssetsError

Fact = str | int | float | bool | None


class Status(StrEnum):
    """Status of a checked subject."""

    GREEN = "green"
    YELLOW = "yellow"
    """The subject works, or is not needed, but deserves a look."""
    RED = "red"
    """Runs will fail."""
    SKIPPED = "skipped"
    """The check could not run, because an earlier check was red."""


@dataclass(frozen=True)
class Finding:
    """Result of a check. No member ever contains a token, a secret or anything about a patient."""

    check: str
    """Name of the check, such as `lake.write`."""
    status: Status
    found: str
    """Observation, as a sentence."""
    why: str = ""
    """Probable reason."""
    remedy: str = ""
    """Remedy: which role to grant where, which setting to change."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """Numbers and names, for programs."""

    @classmethod
    def of_error(cls, check: str, error: DicomAssetsError, status: Status = Status.RED) -> "Finding":
        """Create a finding from an error: its first sentence becomes `found`, the rest `remedy`.

        A message of several lines, such as a list, stays whole in `found`.
        """
        text = str(error)
        found, _, remedy = (text, "", "") if "\n" in text else text.partition(". ")
        return cls(check, status, found, remedy=remedy)
