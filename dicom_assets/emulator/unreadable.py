"""Instances whose metadata the service cannot give out, as they happen to the real service."""

from enum import StrEnum
from typing import Final

from dicom_assets.emulator.errors import EmulatorError


class Fault(StrEnum):
    """What is wrong with the stored metadata of an instance."""

    MISSING = "missing"
    """The metadata file is missing: a page that should hold it answers 500."""
    MALFORMED = "malformed"
    """The stored JSON cannot be read: a page that should hold it answers 400."""
    SURROGATE = "surrogate"
    """The page comes; the metadata holds the escape of half a character (`\\ud800`)."""
    UTF8 = "utf8"
    """The page comes; the metadata holds bytes that are no UTF-8."""
    NESTED = "nested"
    """The page comes; the metadata holds sequences nested deeper than parsers go."""
    NO_OBJECT = "no-object"
    """The page comes; the metadata is JSON, but no object."""


_STATUS: Final = {Fault.MISSING: 500, Fault.MALFORMED: 400}
_NESTED_SEQUENCES: Final = 400
_ELEMENTS: Final = {
    Fault.SURROGATE: b'"00104000":{"vr":"LT","Value":["\\ud800"]}',
    Fault.UTF8: b'"00104000":{"vr":"LT","Value":["\xff\xfe"]}',
    Fault.NESTED: b'"0040A730":{"vr":"SQ","Value":[{' * _NESTED_SEQUENCES + b"}]}" * _NESTED_SEQUENCES,
}


class UnreadableMetadataError(EmulatorError):
    """A page holds an instance whose metadata cannot be given out."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("The metadata of an instance on the page cannot be read.")
        self.fault = fault

    @property
    def status_code(self) -> int:
        """HTTP status of the answer."""
        return _STATUS.get(self.fault, 500)


def spoil(metadata: str, fault: Fault) -> bytes:
    """Return metadata as a page holds it in spite of the fault: no usable JSON.

    Args:
        metadata: the JSON text of an object.
        fault: what is wrong with it.

    Raises:
        UnreadableMetadataError: the fault is one with which no page comes.
    """
    if fault in _STATUS:
        raise UnreadableMetadataError(fault)
    if fault is Fault.NO_OBJECT:
        return b'"metadata"'
    members = metadata.encode().strip().removesuffix(b"}").rstrip()
    return members + (b"" if members.endswith(b"{") else b",") + _ELEMENTS[fault] + b"}"
