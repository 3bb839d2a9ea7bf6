"""DICOM data sets as the metadata the feed carries: DICOM JSON without bulk data; and back again.

Source: DICOM PS3.18 Annex F (DICOM JSON model).
"""

import json
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

Metadata = dict[str, Any]
"""A data set in the DICOM JSON model: tag (eight hexadecimal digits, upper case) to element."""

STUDY_INSTANCE_UID: Final = "0020000D"
SERIES_INSTANCE_UID: Final = "0020000E"
SOP_INSTANCE_UID: Final = "00080018"
SOP_CLASS_UID: Final = "00080016"
PATIENT_ID: Final = "00100020"

_FILE_META = 0x0002
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


@contextmanager
def tolerant() -> Iterator[None]:
    """Inside, pydicom's warnings about values (which quote patient data) are dropped."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class ReadMetadata:
    """The metadata of a data set, and the tags that could not be converted and are missing from it."""

    metadata: Metadata
    dropped: tuple[str, ...]


def read_metadata(dataset: Dataset) -> ReadMetadata:
    """The metadata of a data set as the service keeps it: no bulk data, no unreadable elements, no file meta."""
    dropped: list[str] = []
    with tolerant():
        return ReadMetadata(_convert(dataset, dropped), tuple(dropped))


def _convert(dataset: Dataset, dropped: list[str]) -> Metadata:
    metadata: Metadata = {}
    for tag in sorted(dataset.keys()):
        if tag.group == _FILE_META or tag.element == 0:  # element 0: group length, retired
            continue
        try:
            element = _convert_element(dataset, tag, dropped)
        except UNREADABLE:
            dropped.append(f"({tag.group:04x},{tag.element:04x})")
        else:
            if element is not None:
                metadata[f"{tag:08X}"] = element
    return metadata


def _convert_element(dataset: Dataset, tag: BaseTag, dropped: list[str]) -> dict[str, Any] | None:
    """The element in the JSON model, or None for bulk data."""
    element = dataset[tag]
    if element.VR in _BULK or " or O" in element.VR or "OB or " in element.VR:
        return None
    if " or " in element.VR:
        raise ValueError("the value representation depends on an element that is missing")
    if element.VR == "SQ":
        items = [_convert(item, dropped) for item in element.value]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    converted: dict[str, Any] = element.to_json_dict(None, 0)
    # Through text: plain types only, and infinite or undefined numbers, which JSON cannot hold, are refused here.
    plain: dict[str, Any] = json.loads(json.dumps(converted, allow_nan=False))
    return plain


def first_value(metadata: Mapping[str, Any], tag: str) -> str:
    """The first value of a text element without padding, or an empty string."""
    values = (metadata.get(tag) or {}).get("Value") or [""]
    value = values[0]
    return value.rstrip(" \0") if isinstance(value, str) else ""


def build_dataset(metadata: Metadata) -> Dataset:
    """A data set with the metadata's elements, ready to be written as a file."""
    with tolerant():
        dataset = Dataset.from_json(metadata)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.preamble = b"\0" * 128
    return dataset


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
