"""Something in a file of the user's that cannot be used, and where it stands."""

from dataclasses import dataclass

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value of the file; to a value that is not there, from what it should be in."""


@dataclass(frozen=True)
class Problem:
    """Something in the file that cannot be used."""

    place: Place
    text: str
    """What is wrong, why, and what to do."""
    other: Place | None = None
    """Where the same was said before."""
