"""Values of DICOM JSON elements, picked by tag and converted to the columns' types.

A value that cannot be converted becomes null and is counted; nothing here raises on a value.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 6.2 (value representations).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import msgspec
import pyarrow as pa

from dicom_assets.core.schema import TIMESTAMP, Column

METADATA = "metadata"
"""Name under which metadata that is no DICOM JSON object is counted."""


class _Element(msgspec.Struct, gc=False):
    Value: list[Any] | None = None


_MALFORMED = _Element([object()])
"""Stands for an element that is no DICOM JSON element: its value converts to nothing."""

_UNDECODABLE = (msgspec.DecodeError, RecursionError)
"""What the decoder raises for a text that is no JSON, has another shape, or is nested without end."""

_Row = tuple[_Element | None, ...]


def build_attributes(metadata: Iterable[bytes | None], columns: Sequence[Column]) -> tuple[pa.Table, Counter[str]]:
    """One row per metadata text: the first value of each column's element, in the column's type.

    Args:
        metadata: DICOM JSON objects in UTF-8; None where the service gave none.
        columns: with a tag or a path of tags. A column of a list type takes all values of its element.

    Returns:
        A table with the columns, in order, and the number of values per column that could not be converted. Metadata
        that is no DICOM JSON object gives a row of nulls and counts under `metadata`.
    """
    failures: Counter[str] = Counter()
    tags = list(dict.fromkeys(column.path[0] for column in columns))
    rows = _decode_rows(metadata, tags, failures)
    arrays = [
        _convert(_pick(rows, tags.index(column.path[0]), column.path[1:]), column, failures) for column in columns
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([column.arrow for column in columns])), failures


def _decode_rows(metadata: Iterable[bytes | None], tags: list[str], failures: Counter[str]) -> list[_Row]:
    nothing: _Row = (None,) * len(tags)
    decode, astuple = _decoder(tuple(tags)).decode, msgspec.structs.astuple
    rows: list[_Row] = []
    for text in metadata:
        if text is None:
            rows.append(nothing)
            continue
        try:
            rows.append(astuple(decode(text)))
        except _UNDECODABLE:
            row = _decode_leniently(text, tags)
            if row is None:
                failures[METADATA] += 1
            rows.append(row or nothing)
    return rows


@lru_cache
def _decoder(tags: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes only the elements of these tags; the others are skipped over."""
    members = [(f"_{tag}", _Element | None, None) for tag in tags]
    return msgspec.json.Decoder(msgspec.defstruct("Elements", members, rename=lambda name: name[1:], gc=False))


def _decode_leniently(text: bytes, tags: list[str]) -> _Row | None:
    """The elements of an object in which some element has the wrong shape; None for what is no object."""
    try:
        elements = msgspec.json.decode(text)
    except _UNDECODABLE:
        return None
    return tuple(_element(elements.get(tag)) for tag in tags) if isinstance(elements, dict) else None


def _element(member: object) -> _Element | None:
    if member is None:
        return None
    if not isinstance(member, dict):
        return _MALFORMED
    values = member.get("Value")
    return _Element(values) if values is None or isinstance(values, list) else _MALFORMED


def _pick(rows: list[_Row], place: int, path: tuple[str, ...]) -> list[list[Any] | None]:
    """The values of one element in every row; below the top level, of the first item of each sequence on the path."""
    picked = [None if (element := row[place]) is None else element.Value for row in rows]
    for tag in path:
        picked = [_descend(values, tag) for values in picked]
    return picked


def _descend(values: list[Any] | None, tag: str) -> list[Any] | None:
    if not values or values[0] is None:
        return None
    element = _element(values[0].get(tag)) if isinstance(values[0], dict) else _MALFORMED
    return None if element is None else element.Value


def _convert(picked: list[list[Any] | None], column: Column, failures: Counter[str]) -> pa.Array:
    if pa.types.is_list(column.type):
        convert = _counting(_CONVERTERS[column.type.value_type], column, failures)
        return pa.array([values and [convert(value) for value in values] for values in picked], column.type)
    firsts = [values[0] if values else None for values in picked]
    if column.type in _NATIVE and {type(value) for value in firsts} <= {_NATIVE[column.type], type(None)}:
        try:
            return pa.array(firsts, column.type)
        except (pa.ArrowInvalid, OverflowError):
            pass  # a number too large for the column: found and counted below
    convert = _counting(_CONVERTERS[column.type], column, failures)
    return pa.array([convert(value) for value in firsts], column.type)


def _counting(convert: Callable[[Any], Any], column: Column, failures: Counter[str]) -> Callable[[Any], Any]:
    def convert_or_count(value: object) -> object:
        if value is None:
            return None
        try:
            return convert(value)
        except (ValueError, TypeError, OverflowError):
            failures[column.name] += 1
            return None

    return convert_or_count


def _text(value: object) -> str | None:
    """A string as it is; of a person's name its alphabetic form; a number as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and (not value or value.keys() & {"Alphabetic", "Ideographic", "Phonetic"}):
        name = value.get("Alphabetic")
        if name is None or isinstance(name, str):
            return name
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _number(value: object) -> int | float | None:
    """A JSON number, or the number a text holds; None for an empty text."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if "_" in text:
            raise ValueError
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def _integer(bits: int) -> Callable[[object], int | None]:
    limit = 2 ** (bits - 1)

    def integer(value: object) -> int | None:
        number = _number(value)
        if number is None:
            return None
        if number != int(number) or not -limit <= number < limit:
            raise ValueError
        return int(number)

    return integer


def _double(value: object) -> float | None:
    number = _number(value)
    if number is None:
        return None
    if not math.isfinite(number):  # equals nothing, not even itself, and has no form in the log's JSON
        raise ValueError
    return float(number)


_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_DATE_TIME = re.compile(r"\d{14}(\.\d{1,6})?[+-]\d{4}", re.ASCII)


@lru_cache(maxsize=65536)
def _date_of_text(text: str) -> date | None:
    if not text:
        return None
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError
    return date(int(match[1]), int(match[3]), int(match[4]))


def _date(value: object) -> date | None:
    """DA in its form YYYYMMDD or the old YYYY.MM.DD."""
    if not isinstance(value, str):
        raise TypeError
    return _date_of_text(value.strip())


def _date_time(value: object) -> datetime | None:
    """DT down to its second, with its offset from UTC: without one it is no point in time."""
    if not isinstance(value, str):
        raise TypeError
    text = value.strip()
    if not text:
        return None
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError
    return datetime.strptime(text, f"%Y%m%d%H%M%S{'.%f' if match[1] else ''}%z").astimezone(UTC)


_CONVERTERS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _text,
    pa.int32(): _integer(32),
    pa.int64(): _integer(64),
    pa.float64(): _double,
    pa.date32(): _date,
    TIMESTAMP: _date_time,
}

_NATIVE: dict[pa.DataType, type] = {pa.string(): str, pa.int32(): int, pa.int64(): int}
"""JSON's own types that need no conversion."""
