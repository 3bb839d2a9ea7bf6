"""DICOM files of made-up instances: the elements of their metadata, and a drawn picture of the size that they name.

The picture repeats itself nearly everywhere, so the files are deflated (DICOM PS3.5 Annex A.5): an image of 512 x 512
pixels takes some kilobytes. The picture is deflated once for all files of one shape, and only elements that differ from
the elements of the file before are encoded: a file takes less than a millisecond.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from pydicom.charset import convert_encodings
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, DeflatedExplicitVRLittleEndian

from dicom_assets.emulator.errors import InvalidInstanceError
from dicom_assets.emulator.metadata.data_set import (
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    Metadata,
    build_dataset,
    first_value,
    tolerant,
)
from dicom_assets.emulator.metadata.padding import strip_padding

_CHARACTER_SET: Final = "00080005"
_BRIGHTEST: Final = 2047
"""Greatest value of a picture, where its bits allow it; in a CT it stands for bone."""
_SKULL: Final = 0.9
_BRAIN: Final = 0.8
"""Sizes of the picture's two ellipses, as shares of its height and width."""


class _Shape(NamedTuple):
    """Attributes that determine a picture; without rows, columns or bits there is none."""

    rows: int = 0
    columns: int = 0
    bits_allocated: int = 0
    bits_stored: int = 1
    is_signed: int = 0
    samples: int = 1
    """Samples per pixel."""
    frames: int = 1


_TAGS: Final = ("00280010", "00280011", "00280100", "00280101", "00280103", "00280002", "00280008")
"""Elements of the shape's members."""


def encode_files(instances: Iterable[Metadata]) -> Iterator[bytes]:
    """Yield the DICOM file of each instance; fastest where neighbours have most elements in common.

    Args:
        instances: Metadata of instances.

    Raises:
        InvalidInstanceError: An element cannot be written.
    """
    before: Metadata = {}
    encoded: dict[str, bytes] = {}
    for metadata in instances:
        if metadata.get(_CHARACTER_SET) != before.get(_CHARACTER_SET):
            before = {}
        character_sets = tuple((metadata.get(_CHARACTER_SET) or {}).get("Value") or ["ISO_IR 6"])
        for tag, element in metadata.items():
            if before.get(tag) != element:
                encoded[tag] = _encode_element(tag, element, character_sets)
        before = metadata
        dataset = b"".join([encoded[tag] for tag in sorted(metadata)])
        stream = _deflate(dataset, zlib.Z_FULL_FLUSH) + _deflate_picture(_read_shape(metadata))
        yield _build_head(metadata) + stream + b"\0" * (len(stream) % 2)


def _encode_element(tag: str, element: dict[str, Any], character_sets: tuple[str, ...]) -> bytes:
    values = element.get("Value") or []
    if element.get("vr") == "UI" and all(isinstance(value, str) for value in values):
        return _encode_uids(tag, values)
    return _encode_json(tag, json.dumps(element), character_sets)


def _encode_uids(tag: str, uids: list[str]) -> bytes:
    content = "\\".join(uids).encode()
    content += b"\0" * (len(content) % 2)
    return struct.pack("<HH2sH", int(tag[:4], 16), int(tag[4:], 16), b"UI", len(content)) + content


@lru_cache(4096)
def _encode_json(tag: str, text: str, character_sets: tuple[str, ...]) -> bytes:
    """Return the bytes of an element, from the JSON text of an element that has no UIDs."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    with tolerant():
        try:
            (element,) = build_dataset({tag: json.loads(text)})
            write_data_element(buffer, element, convert_encodings(list(character_sets)))
        except Exception:  # pydicom raises anything; its message may quote the value
            raise InvalidInstanceError("An element of the data set cannot be written to a file.") from None
    return buffer.getvalue()


def _build_head(metadata: Metadata) -> bytes:
    """Return the bytes before the data set: preamble, prefix and file meta information."""
    uids = {
        "00020002": first_value(metadata, SOP_CLASS_UID),
        "00020003": first_value(metadata, SOP_INSTANCE_UID),
        "00020010": DeflatedExplicitVRLittleEndian,
        "00020012": PYDICOM_IMPLEMENTATION_UID,
    }
    meta = struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\0\1")  # version of the file meta information
    meta += b"".join(_encode_uids(tag, [uid]) for tag, uid in uids.items())
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta


def _deflate(content: bytes, flush: int = zlib.Z_FINISH) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # negative: without zlib's header
    return compressor.compress(content) + compressor.flush(flush)


def _read_shape(metadata: Metadata) -> _Shape:
    firsts = [((metadata.get(tag) or {}).get("Value") or [None])[0] for tag in _TAGS]
    named = dict(zip(_Shape._fields, firsts, strict=True))
    return _Shape(**{name: int(strip_padding(str(value))) for name, value in named.items() if value is not None})


@cache
def _deflate_picture(shape: _Shape) -> bytes:
    """Return the deflated element of a picture, a head that is darker above than below; no element without rows."""
    rows, columns, bits_allocated, bits_stored, is_signed, samples, frames = shape
    size = bits_allocated // 8
    if not rows * columns * size:
        return _deflate(b"")
    brightest = min(_BRIGHTEST, 2 ** (bits_stored - is_signed) - 1)
    lines = []
    for row in range(rows):
        height = abs(2 * row + 1 - rows) / rows
        skull, brain = (
            round(columns / 2 * share * math.sqrt(max(0, 1 - (height / share) ** 2))) for share in (_SKULL, _BRAIN)
        )
        grey = brightest * (rows + row) // (3 * rows)
        air, soft, bone = (value.to_bytes(size, "little") * samples for value in (0, grey, brightest))
        left = columns // 2 - skull
        bones = bone * (skull - brain)
        lines.append(air * left + bones + soft * (2 * brain) + bones + air * (columns - left - 2 * skull))
    pixels = b"".join(lines) * frames
    pixels += b"\0" * (len(pixels) % 2)
    return _deflate(struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB" if size == 1 else b"OW", 0, len(pixels)) + pixels)
