"""What requests to the service cost."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Statistics:
    """What the requests cost so far. The difference of two tells what happened in between."""

    pages: int = 0
    """Answers that could be used."""
    retries: int = 0
    """Requests that were sent again."""
    bytes: int = 0
    """Size of the bodies on the wire, as far as they arrived whole."""
    waited_seconds: float = 0
    """Time between tries, summed over concurrent requests."""
    unreadable: int = 0
    """Entries of live instances that came without usable metadata although metadata was asked for."""

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __sub__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))
