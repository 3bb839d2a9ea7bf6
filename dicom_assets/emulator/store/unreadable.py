"""Faults of stored metadata that occur in the real service, which then cannot return the metadata."""

from enum import StrEnum
from typing import Final

from dicom_assets.emulator.errors import EmulatorError


class Fault(StrEnum):
    """Fault of the stored metadata of an instance."""

    MISSING = "missing"
    """The metadata file is missing: a page with the instance answers 500."""
    MALFORMED = "malformed"
    """The stored JSON cannot be parsed: a page with the instance answers 400."""
    SURROGATE = "surrogate"
    """The page is sent; the metadata holds the escape of half a character (`\\ud800`)."""
    UTF8 = "utf8"
    """The page is sent; the metadata holds bytes that are not UTF-8."""
    NESTED = "nested"
    """The page is sent; the metadata holds sequences nested deeper than parsers allow."""
    NO_OBJECT = "no-object"
    """The page is sent; the metadata is JSON, but not an object."""


_STATUS: Final = {Fault.MISSING: 500, Fault.MALFORMED: 400}
_NESTED_SEQUENCES: Final = 400
_ELEMENTS: Final = {
    Fault.SURROGATE: b'"00104000":{"vr":"LT","Value":["\\ud800"]}',
    Fault.UTF8: b'"00104000":{"vr":"LT","Value":["\xff\xfe"]}',
    Fault.NESTED: b'"0040A730":{"vr":"SQ","Value":[{' * _NESTED_SEQUENCES + b"}]}" * _NESTED_SEQUENCES,
}


class UnreadableMetadataError(EmulatorError):
    """A page holds an instance whose metadata has a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("The metadata of an instance on the page cannot be read.")
        self.fault = fault
        self.status_code = _STATUS.get(fault, 500)


def spoil(metadata: str, fault: Fault) -> bytes:
    """Return metadata with a fault as a page holds it; clients cannot use it.

    Args:
        metadata: JSON text of an object.
        fault: Fault to add.

    Raises:
        UnreadableMetadataError: The service sends no page with this fault.
    """
    if fault in _STATUS:
        raise UnreadableMetadataError(fault)
    if fault is Fault.NO_OBJECT:
        return b'"metadata"'
    members = metadata.encode().strip().removesuffix(b"}").rstrip()
    return members + (b"" if members.endswith(b"{") else b",") + _ELEMENTS[fault] + b"}"
