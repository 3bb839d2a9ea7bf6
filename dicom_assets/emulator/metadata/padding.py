"""Padding of UIDs and values, treated as in the real service.

The service's library removes trailing blanks from a text, and trailing NULs from a UID; other padding stays.
"""

from typing import Any, Final

_SINGLE: Final = frozenset({"LT", "ST", "UR", "UT"})
_TEXT: Final = _SINGLE | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"}
_PADDING: Final = " \0"


def strip_padding(text: str) -> str:
    """Return a text without its trailing blanks and NULs."""
    return text.rstrip(_PADDING)


def keep_blanks(uid: str) -> str:
    """Return a UID with its trailing blanks, but without trailing NULs."""
    bare = strip_padding(uid)
    return bare + uid[len(bare) :].replace("\0", "")


def restore_padding(element: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return an element with the padding that the service's library leaves in its values.

    Args:
        element: Element in the DICOM JSON model, with values without padding.
        content: Bytes of the element's value field in the file.
    """
    vr = element["vr"]
    if vr not in _TEXT:
        return element
    parts = [content] if vr in _SINGLE else content.split(b"\\")
    values = element.get("Value") or [{} if vr == "PN" else ""]
    if len(parts) != len(values):  # a backslash is the second byte of a character; only the last value is certain
        parts = [*[b""] * (len(values) - 1), content.rpartition(b"\\")[2]]
    padded = [_pad(value, part, vr) for value, part in zip(values, parts, strict=True)]
    return element if padded == values or padded in ([""], [{}]) else {**element, "Value": padded}


def _pad(value: Any, part: bytes, vr: str) -> Any:
    """Return a value with the padding at the end of its bytes."""
    padding = part[len(part.rstrip(_PADDING.encode())) :].decode()
    padding = padding.replace("\0", "") if vr == "UI" else padding.rstrip(" ")
    if not padding:
        return value
    if vr == "PN":  # the padding follows the last component group
        value = value or {}
        last = list(value)[-1] if value else "Alphabetic"
        return {**value, last: value.get(last, "") + padding}
    if isinstance(value, int | float):  # the service's library does not parse a padded number, and keeps the text
        return part.decode("ascii", "replace").strip(" ")
    return (value or "") + padding
