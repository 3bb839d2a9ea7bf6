"""Location of a value in a data set: an element, or a path of elements through the items of sequences.

In text, dots join the steps of a path. A step is a tag of eight hexadecimal digits, or `(gggg,xxee:CREATOR)` for a
private element, the notation of fo-dicom. The block `xx` of a private element differs from data set to data set, so
the creator that reserved the block identifies the element. `[n]` behind a step selects its value or item n, from 0.

Source: DICOM PS3.5 section 7.8 (private data elements).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

_DOT = re.compile(r"\.(?![^(]*\))")  # a creator may contain dots
_INDEX = re.compile(r"\[\s*(\d{1,6})\s*\]\s*$")
_TAG = re.compile(r"\(?\s*([0-9A-Fa-f]{4})[\s,]*([0-9A-Fa-f]{4})\s*\)?")
_PRIVATE = re.compile(r"\(\s*([0-9A-Fa-f]{3}[13579BDFbdf])\s*,\s*[xX]{2}([0-9A-Fa-f]{2})\s*:\s*([^()]*[^()\s])\s*\)")


@dataclass(frozen=True)
class Step:
    """Element of a data set or of a sequence item, as one step of a path."""

    tag: str
    """Eight hexadecimal digits in upper case; with a creator, `xx` stands for the block."""
    creator: str | None = None
    """Creator that reserved the block of a private element; None for other elements."""
    index: int | None = None
    """Number of the selected value or item, from 0; None if the path selects none."""

    def __str__(self) -> str:
        element = f"({self.tag[:4]},{self.tag[4:]}:{self.creator})" if self.creator else self.tag
        return element if self.index is None else f"{element}[{self.index}]"


def split_path(text: str) -> list[tuple[str, int | None]]:
    """Split a path into the texts of its steps, each with its index or None."""
    steps: list[tuple[str, int | None]] = []
    for part in _DOT.split(text):
        index = _INDEX.search(part)
        steps.append((part[: index.start()].strip(), int(index[1])) if index else (part.strip(), None))
    return steps


def parse_element(text: str) -> Step | None:
    """Parse a tag in any of its notations into a step; return None if the text is not a tag."""
    if match := _TAG.fullmatch(text):
        return Step(f"{match[1]}{match[2]}".upper())
    if match := _PRIVATE.fullmatch(text):
        return Step(f"{match[1].upper()}xx{match[2].upper()}", match[3])
    return None


@lru_cache
def parse_path(text: str) -> tuple[Step, ...]:
    """Parse a path of tags into its steps.

    Raises:
        ValueError: a step is not a tag.
    """
    steps: list[Step] = []
    for part, index in split_path(text):
        step = parse_element(part)
        if step is None:
            raise ValueError(f"{part!r} is no tag")
        steps.append(Step(step.tag, step.creator, index))
    return tuple(steps)
