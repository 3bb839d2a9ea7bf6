"""Where a value lies in a data set: an element, or a path of elements through the items of sequences.

As text the steps are joined by dots. A step is a tag of eight hexadecimal digits, or of a private element
`(gggg,xxee:CREATOR)`, the notation of fo-dicom: its block differs from data set to data set, so what tells it is the
creator that reserved the block. `[n]` behind a step means its value or item n, from 0.

Source: DICOM PS3.5 section 7.8 (private data elements).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

_DOT = re.compile(r"\.(?![^(]*\))")  # creators hold dots too
_INDEX = re.compile(r"\[\s*(\d{1,6})\s*\]\s*$")
_TAG = re.compile(r"\(?\s*([0-9A-Fa-f]{4})[\s,]*([0-9A-Fa-f]{4})\s*\)?")
_PRIVATE = re.compile(r"\(\s*([0-9A-Fa-f]{3}[13579BDFbdf])\s*,\s*[xX]{2}([0-9A-Fa-f]{2})\s*:\s*([^()]*[^()\s])\s*\)")


@dataclass(frozen=True)
class Step:
    """An element of a data set or of an item."""

    tag: str
    """Eight hexadecimal digits in upper case; with a creator, `xx` stands for the block."""
    creator: str | None = None
    """Who reserved the private element's block."""
    index: int | None = None
    """Which value or item is meant; None where that is not said."""

    def __str__(self) -> str:
        element = f"({self.tag[:4]},{self.tag[4:]}:{self.creator})" if self.creator else self.tag
        return element if self.index is None else f"{element}[{self.index}]"


def split_path(text: str) -> list[tuple[str, int | None]]:
    """The steps of a path as they were written, each with its index."""
    steps: list[tuple[str, int | None]] = []
    for part in _DOT.split(text):
        index = _INDEX.search(part)
        steps.append((part[: index.start()].strip(), int(index[1])) if index else (part.strip(), None))
    return steps


def parse_element(text: str) -> Step | None:
    """The element of a tag in one of its notations; None where the text is no tag."""
    if match := _TAG.fullmatch(text):
        return Step(f"{match[1]}{match[2]}".upper())
    if match := _PRIVATE.fullmatch(text):
        return Step(f"{match[1].upper()}xx{match[2].upper()}", match[3])
    return None


@lru_cache
def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a path of tags.

    Raises:
        ValueError: a step is no tag.
    """
    steps: list[Step] = []
    for part, index in split_path(text):
        step = parse_element(part)
        if step is None:
            raise ValueError(f"{part!r} is no tag")
        steps.append(Step(step.tag, step.creator, index))
    return tuple(steps)
