"""The DICOM data dictionary: what an element is called, and what its values look like.

Source: DICOM PS3.6.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """An element of the dictionary."""

    tag: str
    """Eight hexadecimal digits in upper case; an `x` stands for any digit, in groups that repeat."""
    vr: str
    """Value representation; of some elements one of several, such as `US or SS`."""
    vm: str
    """How many values it has, such as `1` or `2-n`."""
    keyword: str
    """Empty for some retired elements."""

    @property
    def repeats(self) -> bool:
        """Whether it is many elements, in groups that repeat."""
        return "x" in self.tag


class Dictionary:
    """Elements by tag and by keyword."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self._by_tag = {element.tag: element for element in elements}
        self._by_keyword = {element.keyword: element for element in self._by_tag.values() if element.keyword}

    def __iter__(self) -> Iterator[Element]:
        return iter(self._by_tag.values())

    def of_tag(self, tag: str) -> Element | None:
        """The element of a tag; None where the dictionary has none, as of private elements."""
        if element := self._by_tag.get(tag):
            return element
        if int(tag[:4], 16) % 2:  # a private group, also where a pattern of repeating groups would take it
            return None
        repeating = (element for element in self._by_tag.values() if element.repeats)
        return next((each for each in repeating if re.fullmatch(each.tag.replace("x", "[0-9A-F]"), tag)), None)

    def of_keyword(self, keyword: str) -> Element | None:
        """The element of a keyword, upper and lower case as the dictionary has them."""
        return self._by_keyword.get(keyword)

    def suggest(self, keyword: str) -> str | None:
        """The keyword that was probably meant."""
        folded = {known.casefold(): known for known in self._by_keyword}
        near = difflib.get_close_matches(keyword.casefold(), folded, n=1, cutoff=0.75)
        return folded[near[0]] if near else None

    def suggest_tag(self, tag: str) -> Element | None:
        """The element whose tag differs in one digit, of several the one with the nearest number."""
        near = [
            each
            for each in self._by_keyword.values()
            if not each.repeats and sum(one != other for one, other in zip(each.tag, tag, strict=True)) == 1
        ]
        return min(near, key=lambda each: abs(int(each.tag, 16) - int(tag, 16)), default=None)
