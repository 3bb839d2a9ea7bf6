"""DICOM data sets as the metadata the feed carries: DICOM JSON without bulk data; and back again.

Source: DICOM PS3.18 Annex F (DICOM JSON model).
"""

import json
import logging
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_assets.emulator.padding import restore_padding, strip_padding

Metadata = dict[str, Any]
"""A data set in the DICOM JSON model: tag (eight hexadecimal digits, upper case) to element."""

STUDY_INSTANCE_UID: Final = "0020000D"
SERIES_INSTANCE_UID: Final = "0020000E"
SOP_INSTANCE_UID: Final = "00080018"
SOP_CLASS_UID: Final = "00080016"
PATIENT_ID: Final = "00100020"

_FILE_META = 0x0002
_NUMBERS = frozenset({"DS", "IS"})
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

# What pydicom raises on values that real files hold, in reading and in writing.
UNREADABLE: Final = (
    InvalidDicomError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    NotImplementedError,
    struct.error,
)

# `warnings.catch_warnings` swaps process-wide state: two threads at once could leave it swapped for good.
_quiet = threading.RLock()
_logger = logging.getLogger("pydicom")


@contextmanager
def tolerant() -> Iterator[None]:
    """Inside, pydicom's warnings about values (which quote patient data) are dropped, and not logged either."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was_disabled, _logger.disabled = _logger.disabled, True
        try:
            yield
        finally:
            _logger.disabled = was_disabled


@dataclass(frozen=True)
class ReadMetadata:
    """The metadata of a data set, and the tags that could not be converted and are missing from it."""

    metadata: Metadata
    dropped: tuple[str, ...]


def read_metadata(dataset: Dataset, *, keep_padding: bool = False) -> ReadMetadata:
    """The metadata of a data set as the service keeps it: no bulk data, no unreadable elements, no file meta.

    Args:
        dataset: the data set.
        keep_padding: leave the padding of values as the real service does; otherwise there is none.
    """
    dropped: list[str] = []
    with tolerant():
        return ReadMetadata(_convert(dataset, dropped, keep_padding), tuple(dropped))


def _convert(dataset: Dataset, dropped: list[str], keep_padding: bool) -> Metadata:
    metadata: Metadata = {}
    for tag in sorted(dataset.keys()):
        if tag.group == _FILE_META or tag.element == 0:  # element 0: group length, retired
            continue
        try:
            element = _convert_element(dataset, tag, dropped, keep_padding)
        except UNREADABLE:
            dropped.append(f"({tag.group:04x},{tag.element:04x})")
        else:
            if element is not None:
                metadata[f"{tag:08X}"] = element
    return metadata


def _convert_element(dataset: Dataset, tag: BaseTag, dropped: list[str], keep_padding: bool) -> dict[str, Any] | None:
    """The element in the JSON model, or None for bulk data."""
    raw: object = dataset.get_item(tag)
    element = dataset[tag]
    if element.VR in _BULK or " or O" in element.VR or "OB or " in element.VR:
        return None
    if " or " in element.VR:
        raise ValueError("the value representation depends on an element that is missing")
    if element.VR == "SQ":
        items = [_convert(item, dropped, keep_padding) for item in element.value]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    converted: dict[str, Any] = element.to_json_dict(None, 0)
    # Through text: plain types only, and infinite or undefined numbers, which JSON cannot hold, are refused here.
    plain: dict[str, Any] = json.loads(json.dumps(converted, allow_nan=False))
    if keep_padding and isinstance(raw, RawDataElement) and raw.value:
        return restore_padding(plain, raw.value)
    return plain


def first_value(metadata: Mapping[str, Any], tag: str) -> str:
    """The first value of a text element without padding, or an empty string."""
    return strip_padding(first_text(metadata, tag))


def first_text(metadata: Mapping[str, Any], tag: str) -> str:
    """The first value of a text element as it stands, or an empty string."""
    values = (metadata.get(tag) or {}).get("Value") or [""]
    return values[0] if isinstance(values[0], str) else ""


def build_dataset(metadata: Metadata) -> Dataset:
    """A data set with the metadata's elements, ready to be written as a file."""
    numbers = {tag: _without_padding(element) for tag, element in metadata.items() if element.get("vr") in _NUMBERS}
    with tolerant():
        dataset = Dataset.from_json({**metadata, **numbers})
    for tag, element in metadata.items():
        if element.get("vr") == "UI" and any(str(value).endswith(" ") for value in element.get("Value", [])):
            dataset[tag] = DataElement(int(tag, 16), "UI", element["Value"], already_converted=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.preamble = b"\0" * 128
    return dataset


def _without_padding(element: dict[str, Any]) -> dict[str, Any]:
    """A number element without the NULs that pydicom does not take in numbers."""
    values = [strip_padding(value) if isinstance(value, str) else value for value in element.get("Value", [])]
    return {**element, "Value": values} if values else element


def encode(dataset: Dataset) -> bytes:
    """The data set as the bytes of a DICOM file."""
    with tolerant(), BytesIO() as buffer:
        meta = getattr(dataset, "file_meta", None)
        if meta is None or "TransferSyntaxUID" not in meta:
            dataset.file_meta = meta or FileMetaDataset()
            implicit = dataset.original_encoding[0] is not False
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dcmwrite(buffer, dataset, enforce_file_format=True)
        return buffer.getvalue()


def decode(content: bytes) -> Dataset:
    """The data set of a DICOM file.

    Raises:
        one of UNREADABLE: the bytes are no DICOM file.
    """
    with tolerant():
        return dcmread(BytesIO(content))
