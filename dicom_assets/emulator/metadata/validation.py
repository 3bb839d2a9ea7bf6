"""Validation of values against their value representation, as in the real service from API v2 on.

Source: DICOM PS3.5 §6.2, as pydicom checks it, and the control characters that a text may hold.
"""

import re
from typing import Any, Final

from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

from dicom_assets.emulator.metadata.padding import strip_padding

# The escape character is allowed since it switches character sets; line and page breaks only in texts.
_CONTROL: Final = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")
_CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_TEXTS: Final = frozenset({"LT", "ST", "UT"})
_STRINGS: Final = _TEXTS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI", "UR"}


def is_valid(element: DataElement) -> bool:
    """Return whether all values of an element fit its value representation; trailing padding is allowed."""
    if element.VR not in _STRINGS or element.value is None:
        return True
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    return all(_is_valid(element.VR, value) for value in values)


def _is_valid(vr: str, value: Any) -> bool:
    text = strip_padding("" if value is None else str(value))
    if (_CONTROL_IN_TEXT if vr in _TEXTS else _CONTROL).search(text):
        return False
    try:
        validate_value(vr, text, RAISE)
    except ValueError:
        return False
    return True
