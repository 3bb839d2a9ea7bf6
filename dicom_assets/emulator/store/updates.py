"""Attributes that a bulk update may change: patient and study attributes that are not sequences.

Source: the public DICOM server's list for `$bulkUpdate`; value representations and limits are those of DICOM PS3.5.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from dicom_assets.emulator.errors import InvalidUpdateError

MAXIMUM_STUDIES: Final = 50
"""Most studies that one request may update."""

UPDATABLE: Final[Mapping[str, str]] = {
    "00080050": "SH",  # Accession Number
    "00080090": "PN",  # Referring Physician's Name
    "00081030": "LO",  # Study Description
    "00100010": "PN",  # Patient's Name
    "00100020": "LO",  # Patient ID
    "00100021": "LO",  # Issuer of Patient ID
    "00100022": "CS",  # Type of Patient ID
    "00100030": "DA",  # Patient's Birth Date
    "00100032": "TM",  # Patient's Birth Time
    "00100040": "CS",  # Patient's Sex
    "00100200": "CS",  # Quality Control Subject
    "00101000": "LO",  # Other Patient IDs
    "00101001": "PN",  # Other Patient Names
    "00101005": "PN",  # Patient's Birth Name
    "00101010": "AS",  # Patient's Age
    "00101020": "DS",  # Patient's Size
    "00101030": "DS",  # Patient's Weight
    "00101040": "LO",  # Patient's Address
    "00101060": "PN",  # Patient's Mother's Birth Name
    "00101080": "LO",  # Military Rank
    "00101081": "LO",  # Branch of Service
    "00101090": "LO",  # Medical Record Locator
    "00102150": "LO",  # Country of Residence
    "00102152": "LO",  # Region of Residence
    "00102154": "SH",  # Patient's Telephone Numbers
    "00102160": "SH",  # Ethnic Group
    "00102180": "SH",  # Occupation
    "001021F0": "LO",  # Patient's Religious Preference
    "00102201": "LO",  # Patient Species Description
    "00102292": "LO",  # Patient Breed Description
    "00102295": "LO",  # Breed Registration Number
    "00102297": "PN",  # Responsible Person
    "00102298": "CS",  # Responsible Person Role
    "00102299": "LO",  # Responsible Organization
    "00104000": "LT",  # Patient Comments
    "00403001": "LO",  # Confidentiality Constraint on Patient Data Description
}
"""Value representation, by tag, of every attribute that a bulk update may change."""

_VALUES: Final = {
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII),
    "LO": re.compile(r"[^\\]{0,64}"),
    "LT": re.compile(r"(?s).{0,10240}"),
    "SH": re.compile(r"[^\\]{0,16}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII),
}


def check_changes(changes: object) -> None:
    """Check the changes of a bulk update by the service's rules.

    Raises:
        InvalidUpdateError: The changes are not a data set, hold an attribute that cannot be changed, or hold an invalid
            value.
    """
    if not isinstance(changes, Mapping):
        raise InvalidUpdateError(["The change data set must be an object in the DICOM JSON model."])
    comments = [comment for tag, element in changes.items() if (comment := _refusal(str(tag), element))]
    if comments:
        raise InvalidUpdateError(comments)


def _refusal(tag: str, element: Any) -> str | None:
    """Return why an element cannot be changed to its value, without the value; None if it can."""
    vr = UPDATABLE.get(tag)
    if vr is None:
        return f"The element {tag[:16]} is not among those a bulk update may change."
    if not isinstance(element, Mapping) or element.get("vr") != vr:
        return f"The element {tag} must have the value representation {vr}."
    values = element.get("Value", [])
    if not isinstance(values, list) or not all(value is None or _is_value(vr, value) for value in values):
        return f"A value of the element {tag} does not fit the value representation {vr}."
    return None


def _is_value(vr: str, value: Any) -> bool:
    if vr == "PN":
        return isinstance(value, Mapping) and all(isinstance(component, str) for component in value.values())
    if vr == "DS":
        return isinstance(value, int | float | str)
    return isinstance(value, str) and _VALUES[vr].fullmatch(value) is not None
