"""Problems in a file of the user, with their place."""

from dataclasses import dataclass

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value in the file; for a missing value, to the place where it should be."""


@dataclass(frozen=True)
class Problem:
    """Part of the file that cannot be used."""

    place: Place
    text: str
    """Fault, its cause and the remedy, as sentences."""
    other: Place | None = None
    """Place of an earlier entry that this entry repeats; None if there is none."""
