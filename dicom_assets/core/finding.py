"""What a check of the surroundings found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_assets.core.errors import DicomAssetsError

Fact = str | int | float | bool | None


class Status(StrEnum):
    """How it stands with what was checked."""

    GREEN = "green"
    YELLOW = "yellow"
    """It works, or is not needed; but look at it."""
    RED = "red"
    """Runs will fail."""
    SKIPPED = "skipped"
    """It could not be checked, since a check before it found red."""


@dataclass(frozen=True)
class Finding:
    """What a check found. No member ever holds a token, a secret or anything about a patient."""

    check: str
    """Name of the check, such as `lake.write`."""
    status: Status
    found: str
    """What was seen, as a sentence."""
    why: str = ""
    """Why that probably is so."""
    remedy: str = ""
    """What to do: which role to grant where, which setting to change."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """Figures and names, for machines."""

    @classmethod
    def of_error(cls, check: str, error: DicomAssetsError, status: Status = Status.RED) -> "Finding":
        """The error's first sentence as what was found, the rest as what to do; a list stays as it is."""
        text = str(error)
        found, _, remedy = (text, "", "") if "\n" in text else text.partition(". ")
        return cls(check, status, found, remedy=remedy)
