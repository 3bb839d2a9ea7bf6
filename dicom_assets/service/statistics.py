"""Cost of requests to the service."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Statistics:
    """Cost of the requests so far; the difference of two values is the cost in between."""

    pages: int = 0
    """Number of usable answers."""
    retries: int = 0
    """Number of retried requests."""
    bytes: int = 0
    """Size of the bodies on the wire; bodies that did not arrive whole are not counted."""
    waited_seconds: float = 0
    """Time between tries, summed over concurrent requests."""

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __sub__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))
