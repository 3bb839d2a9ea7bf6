"""Parts of a DICOM JSON data set: the values of an element, and the tag of a private element.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 7.8 (private data elements).
"""

from collections.abc import Mapping

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.element_path import Step

UNDECODABLE = (msgspec.DecodeError, RecursionError)
"""Exceptions of the decoder for a text that is not JSON, has an unexpected shape, or is nested too deeply."""

PADDING = " \0"
"""Characters that pad texts to an even length; at the end of a value they have no meaning."""

FIRST_BLOCK = "10"
"""First of the 240 blocks of a private group; the tag of the reserving element ends with the block's number."""


def trim_padding(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return texts without padding at the end; two UIDs that differ only in padding are one UID."""
    return pc.utf8_rtrim(texts, characters=PADDING)


def find_tag(members: Mapping[str, object], step: Step) -> str:
    """Return the tag of a step in a data set or an item; an empty text if its creator reserved no block there."""
    if step.creator is None:
        return step.tag
    group, number = step.tag[:4], step.tag[6:]
    for tag, reservation in members.items():
        if is_reservation(tag, group) and read_creator(reservation) == step.creator:
            return f"{group}{tag[6:]}{number}"
    return ""


def is_reservation(tag: str, group: str) -> bool:
    """Return whether an element reserves a block of a private group."""
    return tag.startswith(f"{group}00") and tag[6:] >= FIRST_BLOCK


def read_creator(reservation: object) -> str | None:
    """Return the creator that reserved a block of private elements; None if the element is malformed."""
    try:
        creator = next(iter(read_values(reservation) or ()), None)
    except TypeError:
        return None
    return creator.strip(PADDING) if isinstance(creator, str) else None


def read_values(element: object) -> list[object] | None:
    """Return the values of a DICOM JSON element; None if the element is missing or has no values.

    Raises:
        TypeError: the element is malformed.
    """
    if element is None:
        return None
    values = element.get("Value") if isinstance(element, dict) else element
    if values is None or (isinstance(values, list) and isinstance(element, dict)):
        return values
    raise TypeError
