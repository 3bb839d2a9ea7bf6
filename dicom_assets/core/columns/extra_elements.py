"""Elements for the columns that users add: lookup in the dictionary, and the column types that can hold the values.

Every check raises a ValueError whose text says what is wrong, why, and what to do.

Source: DICOM PS3.5 section 6.2 (value representations).
"""

from dataclasses import dataclass

from dicom_assets.core.columns.data_dictionary import Dictionary, Element
from dicom_assets.core.columns.element_path import Step, parse_element, split_path

_TEXT = ("string", "list<string>")
_NUMBER = ("double", *_TEXT, "list<double>")
_TYPES = {
    **dict.fromkeys(["AE", "AS", "AT", "CS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"], _TEXT),
    "DA": ("date", *_TEXT),
    "DT": (*_TEXT, "timestamp"),  # most values have no offset from UTC, so they are not points in time
    **dict.fromkeys(["IS", "SL", "SS", "US", "US or SS", "US or OW", "US or SS or OW"], ("int", "long", *_NUMBER)),
    "UL": ("long", *_NUMBER),
    **dict.fromkeys(["SV", "UV"], ("long", *_TEXT)),  # a double holds 53 of their 64 bits
    **dict.fromkeys(["DS", "FD", "FL"], _NUMBER),
}
"""Column types that hold all or nearly all values, by value representation; the first is the default for one value."""
_FILE_META = "0002"
_SEQUENCE = "SQ"


@dataclass(frozen=True)
class Found:
    """Element that can be the source of a column."""

    path: tuple[Step, ...]
    """Steps from the top level of the data set down to the element."""
    element: Element | None
    """Entry of the dictionary; None for a private element, which the dictionary does not know."""

    @property
    def tag(self) -> str:
        """Path as text, as in `Column.tag`."""
        return ".".join(map(str, self.path))

    @property
    def _name(self) -> str:
        return _describe(self.element) if self.element else str(self.path[-1])

    def default_type(self) -> str:
        """Return the name of the type that holds the values; a list type if the element may have several values.

        Raises:
            ValueError: the element is private, so its type is not known.
        """
        if self.element is None:
            raise ValueError(
                f"is missing, and {self._name} is private, so the dictionary does not know its type. Add type = "
                '"string", or what the manufacturer says that it holds.'
            )
        first, *others = _TYPES[self.element.vr]
        if self.element.vm == "1" or self.path[-1].index is not None:
            return first
        return "list<double>" if "list<double>" in others else "list<string>"

    def check_type(self, name: str) -> None:
        """Check that a type can hold the values.

        Args:
            name: name of the type.

        Raises:
            ValueError: the type cannot hold the values.
        """
        if self.element is not None and name not in (possible := _TYPES[self.element.vr]):
            raise ValueError(
                f"{name!r} cannot hold the values of {self._name}, whose representation in DICOM is {self.element.vr}. "
                f"Choose one of {', '.join(possible)}, or leave it out for {self.default_type()}."
            )
        if name.startswith("list") and self.path[-1].index is not None:
            raise ValueError(
                f"{name!r} takes all values, and [{self.path[-1].index}] means one of them. Leave out one of the two."
            )


def find_element(text: str, dictionary: Dictionary) -> Found:
    """Return the element that a keyword, a tag, or a path of keywords and tags names.

    Raises:
        ValueError: there is no such element, or the metadata never contains its values.
    """
    *above, (last, last_index) = split_path(text)
    path: list[Step] = []
    for part, index in above:
        step, element = _find_step(part, index, dictionary)
        if element is not None and element.vr != _SEQUENCE:
            raise ValueError(f"{_describe(element)} is no sequence, so nothing lies below it. End the path there.")
        path.append(step)
    step, element = _find_step(last, last_index, dictionary)
    _check_has_values(step, element)
    return Found((*path, step), element)


def _find_step(text: str, index: int | None, dictionary: Dictionary) -> tuple[Step, Element | None]:
    step = parse_element(text)
    if step is None:
        element = dictionary.of_keyword(text)
        if element is None:
            raise ValueError(_unknown_word(text, dictionary))
        if element.repeats:
            raise ValueError(f"{text} is in several groups, {element.tag}. Give the tag of the one that is meant.")
        step = Step(element.tag)
    elif step.creator is not None or int(step.tag[:4], 16) % 2:
        element = None
    else:
        element = dictionary.of_tag(step.tag)
        if element is None:
            near = dictionary.suggest_tag(step.tag)
            hint = f"Did you mean {_describe(near)}?" if near else "Look it up in PS3.6."
            raise ValueError(f"{text} is no tag of the DICOM dictionary. {hint}")
    return Step(step.tag, step.creator, index), element


def _unknown_word(text: str, dictionary: Dictionary) -> str:
    if not text.isidentifier():
        return (
            f"{text!r} is neither a keyword nor a tag. Write a keyword such as SliceThickness, eight hexadecimal "
            "digits such as 00180050 or (0018,0050), or several joined by dots to reach into a sequence."
        )
    near = dictionary.suggest(text)
    hint = f"Did you mean {near}?" if near else "Look it up in PS3.6, or give the tag."
    return f"{text} is no keyword of the DICOM dictionary. {hint}"


def _check_has_values(step: Step, element: Element | None) -> None:
    if element is None:
        return
    name = _describe(element)
    if step.tag.startswith(_FILE_META):
        raise ValueError(
            f"{name} belongs to the file around the data set, and the service's feed does not carry it, so the column "
            "would stay empty. Take it out, and read it from the file where you need it (docs/columns.md)."
        )
    if element.vr == _SEQUENCE:
        raise ValueError(
            f"{name} is a sequence, which has no value. Go on to an element in it: {element.keyword or step}.KEYWORD."
        )
    if element.vr not in _TYPES or step.tag.endswith("0000"):
        raise ValueError(
            f"{name} holds bulk data or nothing ({element.vr}), and the service's feed does not carry it, so the "
            "column would stay empty. Take it out."
        )


def _describe(element: Element) -> str:
    tag = f"({element.tag[:4]},{element.tag[4:]})"
    return f"{element.keyword} {tag}" if element.keyword else tag
