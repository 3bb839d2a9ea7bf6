"""The texts of some elements of DICOM JSON metadata, by tag.

An hour's metadata is more text than all else of it, and most of its elements are in no column. So it is not decoded:
DuckDB, a database in this process, finds the elements of many texts at a time, in one pass over each, and without
Python's lock, so that pages of the feed arrive meanwhile.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 7.8 (private data elements).
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.element_path import Step

if TYPE_CHECKING:
    import duckdb

UNDECODABLE = (msgspec.DecodeError, RecursionError)
"""What the decoder raises for a text that is no JSON, has another shape, or is nested without end."""

UNREADABLE = "_unreadable"
"""The column of `split_elements` that tells which texts are no DICOM JSON objects."""

_FIRST_BLOCK = "10"
"""Of the 240 blocks of a private group; the number of the element that reserves it is the block's own."""


def split_elements(metadata: pa.ChunkedArray, steps: Sequence[Step]) -> pa.Table:
    """One row per metadata text: for each step the text of its element, null where there is none.

    Args:
        metadata: DICOM JSON objects as strings, or null.
        steps: to elements of a data set's top level, without indexes.

    Returns:
        A table with a column for each step, named as the step is written, and `_unreadable`.
    """
    names = [*map(str, steps), UNREADABLE]
    if not steps or any(step.creator for step in steps):  # the tags of private ones differ from text to text
        return pa.table(_read_elements(metadata, steps), names)
    *texts, is_read = _find_elements(metadata, [step.tag for step in steps])
    others = pc.if_else(is_read, pa.scalar(None, metadata.type), metadata)
    if others.null_count == len(others):
        return pa.table([*texts, pc.invert(is_read)], names)
    *read, unreadable = _read_elements(others, steps)
    return pa.table([*map(pc.coalesce, texts, read), unreadable], names)


def tag_in(members: Mapping[str, object], step: Step) -> str:
    """The step's tag in a data set or an item: a private element lies in the block that its creator reserved there."""
    if step.creator is None:
        return step.tag
    group, number = step.tag[:4], step.tag[6:]
    for tag, reservation in members.items():
        if tag.startswith(f"{group}00") and tag[6:] >= _FIRST_BLOCK and _creator(reservation) == step.creator:
            return f"{group}{tag[6:]}{number}"
    return ""


def values_of(element: object) -> list[object] | None:
    """The values of a DICOM JSON element; None for an element that is missing or has none.

    Raises:
        TypeError: this is no DICOM JSON element.
    """
    if element is None:
        return None
    values = element.get("Value") if isinstance(element, dict) else element
    if values is None or (isinstance(values, list) and isinstance(element, dict)):
        return values
    raise TypeError


_split_text = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The text of each element by tag; none is decoded."""


def _creator(reservation: object) -> str | None:
    """Who reserved a block of private elements; None where that cannot be read."""
    try:
        element = msgspec.json.decode(reservation) if isinstance(reservation, msgspec.Raw) else reservation
        creator = next(iter(values_of(element) or ()), None)
    except (*UNDECODABLE, TypeError):
        return None
    return creator.strip() if isinstance(creator, str) else None


def _find_elements(metadata: pa.ChunkedArray, tags: Sequence[str]) -> list[pa.ChunkedArray]:
    """For each tag its element in each text, and last whether the text was read, or there is none; many at a time.

    Of a tag that is there twice, which DICOM JSON does not allow, the first counts.
    """
    rows = pa.table({"metadata": metadata})
    with _engine().cursor() as connection:
        found: pa.Table = connection.from_arrow(rows).query("rows", _query(tuple(tags))).to_arrow_table()
    return list(found.itercolumns())


def _read_elements(metadata: pa.ChunkedArray, steps: Sequence[Step]) -> list[pa.Array]:
    """For each step its element in each text, and last whether the text is no DICOM JSON object; one by one."""
    unreadable: list[bool] = []
    rows: list[list[bytes | None]] = []
    for text in metadata.cast(pa.binary()).to_pylist():
        elements: dict[str, msgspec.Raw] = {}
        try:
            elements = {} if text is None else _split_text(text)
            unreadable.append(False)
        except UNDECODABLE:
            unreadable.append(True)
        found = (elements.get(tag_in(elements, step)) for step in steps)
        rows.append([None if element is None else bytes(element) for element in found])
    columns = zip(*rows, strict=True) if rows else [()] * len(steps)
    return [*(pa.array(column, pa.binary()).view(pa.string()) for column in columns), pa.array(unreadable, pa.bool_())]


@lru_cache
def _query(tags: tuple[str, ...]) -> str:
    structure = msgspec.json.encode(dict.fromkeys(tags, "JSON")).decode()
    found = f"SELECT metadata, try(from_json(metadata, '{structure}')) AS elements FROM rows"  # noqa: S608  # tags alone
    is_read = "metadata IS NULL OR elements IS NOT NULL AND starts_with(metadata, '{')"
    return f"SELECT unnest(elements), {is_read} FROM ({found})"  # noqa: S608


@cache
def _engine() -> "duckdb.DuckDBPyConnection":
    """A database without files or network, which works in its caller's thread and keeps rows in their order.

    Memory that is free is given back to the system beside the work, within a second or two: else each of many threads
    keeps its part, and a process that decodes hour after hour would seem to grow by some 100 MiB.
    """
    import duckdb

    return duckdb.connect(
        config={
            "threads": 1,
            "enable_external_access": False,
            "preserve_insertion_order": True,
            "allocator_background_threads": True,
        }
    )
