"""Conversion of DICOM data sets to the metadata of the change feed, which is DICOM JSON without bulk data, and back.

Source: DICOM PS3.18 Annex F (DICOM JSON model).
"""

import json
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_assets.emulator.errors import InvalidInstanceError
from dicom_assets.emulator.metadata.padding import restore_padding, strip_padding
from dicom_assets.emulator.metadata.validation import is_valid

Metadata = dict[str, Any]
"""Data set in the DICOM JSON model: elements by tag (eight hexadecimal digits, upper case)."""

STUDY_INSTANCE_UID: Final = "0020000D"
SERIES_INSTANCE_UID: Final = "0020000E"
SOP_INSTANCE_UID: Final = "00080018"
SOP_CLASS_UID: Final = "00080016"
PATIENT_ID: Final = "00100020"

_FILE_META = 0x0002
_KEY = frozenset({STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, SOP_CLASS_UID})
"""Elements that the service checks by a rule of its own, which is more lenient."""
_ESCAPE_GB2312 = "\x1b$)A"
"""Escape sequence that switches to ISO 2022 IR 58; pydicom decodes the text after it, but leaves it in the text."""
_NAME = re.compile(r"[0-9.]{1,64} *", re.ASCII)
_NUMBERS = frozenset({"DS", "IS"})
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

# `warnings.catch_warnings` replaces process-wide state: two threads at once could leave it replaced for ever.
_quiet = threading.RLock()
_logger = logging.getLogger("pydicom")


@contextmanager
def tolerant() -> Iterator[None]:
    """Suppress pydicom's warnings and log messages about values in the block, since they quote patient data."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was_disabled, _logger.disabled = _logger.disabled, True
        try:
            yield
        finally:
            _logger.disabled = was_disabled


class ReadMetadata(NamedTuple):
    """Metadata of a data set, and the tags of the elements that could not be converted and are left out."""

    metadata: Metadata
    dropped: tuple[str, ...]


def read_metadata(dataset: Dataset, *, keep_padding: bool = False, validate: bool = False) -> ReadMetadata:
    """Return the metadata of a data set as the service stores it: no bulk data, unreadable elements or file meta.

    Args:
        dataset: The data set.
        keep_padding: Whether to keep the padding of values that the real service keeps; otherwise it is removed.
        validate: Whether to leave out elements with a value that does not fit its value representation.
    """
    converter = _Converter(keep_padding, validate)
    with tolerant():
        return ReadMetadata(converter.convert(dataset), tuple(converter.dropped))


class _Converter:
    """Converter of one data set to the JSON model, which records the tags of the elements that are left out."""

    def __init__(self, keep_padding: bool, validate: bool) -> None:
        self._keep_padding = keep_padding
        self._validate = validate
        self.dropped: list[str] = []

    def convert(self, dataset: Dataset, *, is_item: bool = False) -> Metadata:
        metadata: Metadata = {}
        for tag in sorted(dataset.keys()):
            if tag.group == _FILE_META or tag.element == 0:  # element 0: group length, retired
                continue
            try:
                element = self._convert_element(dataset, tag)
            except Exception as error:  # pydicom raises anything on values of broken files
                if is_item and isinstance(error, RecursionError):
                    raise  # the whole sequence is nested too deep, not its last item
                self.dropped.append(f"({tag.group:04x},{tag.element:04x})")
            else:
                if element is not None:
                    metadata[f"{tag:08X}"] = element
        return metadata

    def _convert_element(self, dataset: Dataset, tag: BaseTag) -> dict[str, Any] | None:
        """Return the element in the JSON model, or None for bulk data."""
        raw: object = dataset.get_item(tag)
        element = dataset[tag]
        if element.VR in _BULK or " or O" in element.VR or "OB or " in element.VR:
            return None
        if " or " in element.VR:
            raise ValueError("the value representation depends on an element that is missing")
        if element.VR == "SQ":
            items = [self.convert(item, is_item=True) for item in element.value]
            return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        if self._validate and f"{tag:08X}" not in _KEY and not is_valid(element):
            raise ValueError("a value does not fit its value representation")
        converted = _to_json(element)
        # The round trip through text leaves plain types only, and refuses values that JSON cannot hold.
        plain: dict[str, Any] = json.loads(json.dumps(converted, allow_nan=False))
        if self._keep_padding and isinstance(raw, RawDataElement) and raw.value:
            return restore_padding(plain, raw.value)
        return plain


def _to_json(element: DataElement) -> dict[str, Any]:
    values = element.value
    has_empty = isinstance(values, MultiValue) and any(str(value) == "" for value in values)
    if has_empty:  # pydicom cannot convert empty names and numbers
        given = [value for value in values if str(value) != ""]
        whole = given[0] if len(given) == 1 else given  # pydicom takes a list of one for a value
        element = DataElement(element.tag, element.VR, whole, already_converted=True)
    converted: dict[str, Any] = element.to_json_dict(None, 0)
    if "Value" in converted:
        converted["Value"] = [_plain(value) for value in converted["Value"]]
    if has_empty:
        rest = iter(converted.get("Value", ()))
        converted["Value"] = [None if str(value) == "" else next(rest) for value in values]
    return converted


def _plain(value: Any) -> Any:
    """Return a value as the service writes it: None where it is empty, a word for a number that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):  # a person's name
        components = {name: _plain(text) or "" for name, text in value.items()}
        return components if any(components.values()) else None
    if isinstance(value, str):
        return value.replace(_ESCAPE_GB2312, "") or None
    return value


def first_value(metadata: Mapping[str, Any], tag: str) -> str:
    """Return the first value of a text element without padding, or an empty string."""
    return strip_padding(first_text(metadata, tag))


def first_text(metadata: Mapping[str, Any], tag: str) -> str:
    """Return the first value of a text element with its padding, or an empty string."""
    values = (metadata.get(tag) or {}).get("Value") or [""]
    return values[0] if isinstance(values[0], str) else ""


def build_dataset(metadata: Metadata) -> Dataset:
    """Return a data set with the metadata's elements, ready to be written as a file."""
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
    """Return a number element without padding, since pydicom refuses NULs in numbers."""
    values = [strip_padding(value) if isinstance(value, str) else value for value in element.get("Value", [])]
    return {**element, "Value": values} if values else element


def encode(dataset: Dataset) -> bytes:
    """Return the data set as the bytes of a DICOM file; missing file meta information is added to it.

    Raises:
        InvalidInstanceError: The data set has an element that cannot be written.
    """
    with tolerant(), BytesIO() as buffer:
        try:
            meta = getattr(dataset, "file_meta", None)
            if meta is None or "TransferSyntaxUID" not in meta:
                dataset.file_meta = meta or FileMetaDataset()
                implicit = dataset.original_encoding[0] is not False
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            dcmwrite(buffer, dataset, enforce_file_format=True)
        except Exception:  # pydicom raises anything; its message may quote the value
            raise InvalidInstanceError("An element of the data set cannot be written to a file.") from None
        return buffer.getvalue()


def read_dataset(source: bytes | Path, *, bare: bool = True, **options: Any) -> Dataset:
    """Read the data set of a DICOM file.

    Args:
        source: The file's bytes, or its path.
        bare: Whether to also accept data sets without preamble and file meta information, if they have a SOP class UID
            and a SOP instance UID.
        options: Options of pydicom's `dcmread`.

    Raises:
        InvalidDicomError: The source does not hold such a data set, or the data set cannot be read to its end.
    """

    def read(*, force: bool) -> Dataset:
        return dcmread(BytesIO(source) if isinstance(source, bytes) else source, force=force, **options)

    with tolerant(), suppress(Exception):  # pydicom raises anything on broken files; its messages may quote values
        try:
            return read(force=False)
        except InvalidDicomError:
            if bare:
                dataset = read(force=True)
                if all(_NAME.fullmatch(str(dataset[tag].value)) for tag in (SOP_CLASS_UID, SOP_INSTANCE_UID)):
                    return dataset
    raise InvalidDicomError("The bytes are no DICOM file that can be read.")
