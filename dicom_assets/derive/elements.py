"""Texts of some elements of DICOM JSON metadata, found by tag in many metadata texts at a time.

An hour's metadata is more text than everything else of the hour, and most elements are in no column. So the metadata is
not decoded. Instead DuckDB, a database in this process, finds the elements in one pass over each text. It works without
Python's global lock, so that pages of the feed arrive meanwhile.

One rule holds for all columns: a text is valid if DuckDB reads it as a JSON object. If a tag occurs twice, which DICOM
JSON does not allow, the first occurrence is used.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 7.8 (private data elements).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.dicom_json import UNREADABLE, build_attributes, list_first_steps
from dicom_assets.core.columns.element_path import Step
from dicom_assets.core.columns.elements import UNDECODABLE, is_reservation, read_creator
from dicom_assets.core.columns.schema import INSTANCE, Column, Table

if TYPE_CHECKING:
    import duckdb

_TAG = re.compile(r"[0-9A-F]{8}")
_ANY_TAG = "00080018"
"""Tag to search for if no column needs a tag, so that the texts are still checked."""


def read_attributes(entries: pa.Table, table: Table = INSTANCE) -> pa.Table:
    """Return the attributes of each entry's metadata, in the entries' order: see `core.dicom_json.build_attributes`.

    Args:
        entries: rows of `change_feed`, at least the column `metadata`.
        table: `instance`, with the users' columns if they have any.
    """
    return build_attributes(split_metadata(entries["metadata"], table.attributes), table.attributes)


def split_metadata(metadata: pa.ChunkedArray, columns: Sequence[Column]) -> pa.Table:
    """Return the texts of the elements that the columns are built from, with one row per metadata text.

    Args:
        metadata: DICOM JSON objects as strings; null if the service gave no metadata.
        columns: columns with a path.

    Returns:
        A table with a column for each top-level element, named like the text of its step, and `_unreadable`.
    """
    import duckdb

    steps = list_first_steps(columns)
    try:
        return _find_elements(metadata, steps)
    except duckdb.Error:  # only invalid UTF-8 leads here, which pages of the service never have
        return _find_elements(_without_wrong_bytes(metadata), steps)


def _without_wrong_bytes(metadata: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts, with null for each text that is not valid UTF-8."""

    def decode(text: bytes | None) -> str | None:
        with suppress(UnicodeDecodeError):
            return None if text is None else text.decode()
        return None

    return pa.chunked_array([[decode(text) for text in metadata.cast(pa.binary()).to_pylist()]], pa.string())


def _find_elements(metadata: pa.ChunkedArray, steps: Sequence[Step]) -> pa.Table:
    private = [step for step in steps if step.creator]
    with _engine().cursor() as connection:
        rows = connection.from_arrow(pa.table({"metadata": metadata}))
        tags = [step.tag for step in steps if not step.creator]
        if private:
            groups = {step.tag[:4] for step in private}
            found = rows.query("rows", _TAGS).fetchall()
            tags += sorted(tag for (tag,) in found if _TAG.fullmatch(tag) and tag[:4] in groups and tag not in tags)
        texts: pa.Table = rows.query("rows", _build_query(tuple(tags) or (_ANY_TAG,))).to_arrow_table()
    columns_by_tag = dict(zip(tags, texts.itercolumns(), strict=False))
    absent = pa.chunked_array([pa.nulls(len(metadata), pa.string())])
    elements = [
        _pick_private(columns_by_tag, step, absent) if step.creator else columns_by_tag[step.tag] for step in steps
    ]
    return pa.table([*elements, texts.column(texts.num_columns - 1)], [*map(str, steps), UNREADABLE])


def _pick_private(texts: dict[str, pa.ChunkedArray], step: Step, absent: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts of a private element, from the first block that its creator reserved in each data set."""
    group, number = step.tag[:4], step.tag[6:]
    picked, is_open = absent, pc.is_null(absent)
    for tag in sorted(tag for tag in texts if is_reservation(tag, group)):
        reservations = texts[tag].combine_chunks().dictionary_encode()
        owned = pa.array([_decode_creator(text) == step.creator for text in reservations.dictionary.to_pylist()])
        is_own = pc.and_(is_open, pc.fill_null(owned.cast(pa.bool_()).take(reservations.indices), False))
        picked = pc.if_else(is_own, texts.get(f"{group}{tag[6:]}{number}", absent), picked)
        is_open = pc.and_(is_open, pc.invert(is_own))
    return picked


def _decode_creator(text: str) -> str | None:
    try:
        return read_creator(msgspec.json.decode(text))
    except UNDECODABLE:
        return None


_IS_OBJECT = "starts_with(ltrim(metadata, ' \t\r\n'), '{')"
_TAGS = "SELECT DISTINCT unnest(try(json_keys(metadata))) FROM rows"
"""Query for the tags of all texts."""


@lru_cache
def _build_query(tags: tuple[str, ...]) -> str:
    structure = msgspec.json.encode(dict.fromkeys(tags, "JSON")).decode()
    found = f"SELECT metadata, try(from_json(metadata, '{structure}')) AS elements FROM rows"  # noqa: S608  # tags alone
    is_read = f"elements IS NOT NULL AND {_IS_OBJECT}"
    return f"SELECT unnest(elements), coalesce(NOT ({is_read}), true) FROM ({found})"  # noqa: S608


@cache
def _engine() -> "duckdb.DuckDBPyConnection":
    """Return a database without files or network, which runs in the caller's thread and keeps the order of rows.

    A background thread returns free memory to the system within a second or two. Without it, each of many threads keeps
    free memory, and a process that decodes hour after hour would seem to grow by some 100 MiB.
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
