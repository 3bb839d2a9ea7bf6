"""Attributes that a bulk update may change: patient and study attributes that are not sequences.

Source: the public DICOM server's list for `$bulkUpdate`; value representations and limits are those of DICOM PS3.5.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_assets.emulator.errors import InvalidUpdateError

MAXIMUM_STUDIES: Final = 50
"""Most studies that one request may update."""

_KEYWORDS: Final = """
    AccessionNumber ReferringPhysicianName StudyDescription PatientName PatientID IssuerOfPatientID TypeOfPatientID
    PatientBirthDate PatientBirthTime PatientSex QualityControlSubject OtherPatientIDs OtherPatientNames
    PatientBirthName PatientAge PatientSize PatientWeight PatientAddress PatientMotherBirthName MilitaryRank
    BranchOfService MedicalRecordLocator CountryOfResidence RegionOfResidence PatientTelephoneNumbers EthnicGroup
    Occupation PatientReligiousPreference PatientSpeciesDescription PatientBreedDescription BreedRegistrationNumber
    ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientComments
    ConfidentialityConstraintOnPatientDataDescription
"""
UPDATABLE: Final[Mapping[str, str]] = {
    f"{tag_for_keyword(keyword):08X}": dictionary_VR(keyword) for keyword in _KEYWORDS.split()
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
