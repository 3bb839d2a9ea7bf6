"""DICOM data dictionary: keyword, value representation and value multiplicity of every element.

Source: DICOM PS3.6.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """Element of the dictionary."""

    tag: str
    """Eight hexadecimal digits in upper case; in repeating groups, an `x` stands for any digit."""
    vr: str
    """Value representation; for some elements several, such as `US or SS`."""
    vm: str
    """Value multiplicity, such as `1` or `2-n`."""
    keyword: str
    """Keyword; empty for some retired elements."""

    @property
    def repeats(self) -> bool:
        """True if the tag stands for elements in several repeating groups."""
        return "x" in self.tag


class Dictionary:
    """Elements of the data dictionary, by tag and by keyword."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self._by_tag = {element.tag: element for element in elements}
        self._by_keyword = {element.keyword: element for element in self._by_tag.values() if element.keyword}

    def __iter__(self) -> Iterator[Element]:
        return iter(self._by_tag.values())

    def of_tag(self, tag: str) -> Element | None:
        """Return the element of a tag; None if the dictionary has none, as for private elements."""
        if element := self._by_tag.get(tag):
            return element
        if int(tag[:4], 16) % 2:  # a private group, even if it matches the pattern of a repeating group
            return None
        repeating = (element for element in self._by_tag.values() if element.repeats)
        return next((each for each in repeating if re.fullmatch(each.tag.replace("x", "[0-9A-F]"), tag)), None)

    def of_keyword(self, keyword: str) -> Element | None:
        """Return the element of a keyword, which is case-sensitive; None if there is none."""
        return self._by_keyword.get(keyword)

    def suggest(self, keyword: str) -> str | None:
        """Return the known keyword most similar to an unknown one; None if none is similar."""
        folded = {known.casefold(): known for known in self._by_keyword}
        near = difflib.get_close_matches(keyword.casefold(), folded, n=1, cutoff=0.75)
        return folded[near[0]] if near else None

    def suggest_tag(self, tag: str) -> Element | None:
        """Return the element whose tag differs in one digit from an unknown tag; None if there is none.

        Of several such elements, return the one whose tag is the nearest number.
        """
        near = [
            each
            for each in self._by_keyword.values()
            if not each.repeats and sum(one != other for one, other in zip(each.tag, tag, strict=True)) == 1
        ]
        return min(near, key=lambda each: abs(int(each.tag, 16) - int(tag, 16)), default=None)
