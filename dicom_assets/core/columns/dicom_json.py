"""Values of DICOM JSON elements, selected by tag and converted to the types of the columns.

A value that cannot be converted becomes null and is counted; no value makes a function here raise. Padding (blanks and
NULs at the ends of a value) is not part of the value. A value that is only padding is null.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 6.2 (value representations).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.element_path import Step
from dicom_assets.core.columns.elements import PADDING, UNDECODABLE, find_tag, read_values
from dicom_assets.core.columns.schema import TIMESTAMP, Column

METADATA = "metadata"
"""Name that counts metadata which is missing, or is not a DICOM JSON object."""

UNREADABLE = "_unreadable"
"""Column that marks rows whose metadata is missing, or is not a DICOM JSON object."""

FAILURES = "_failures"
"""Column of `build_attributes` that lists, for each row, the columns whose values could not be converted."""

_UNCONVERTIBLE = (*UNDECODABLE, ValueError, TypeError, OverflowError)
"""Exceptions for an element or a value that cannot be converted to the type of its column."""


def list_first_steps(columns: Sequence[Column]) -> list[Step]:
    """Return the top-level elements that contain the columns' values, each once, without indexes."""
    return list(dict.fromkeys(map(_find_first_step, columns)))


def build_attributes(elements: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Return one row per metadata text: the value of each column's element, in the column's type.

    Args:
        elements: one text column per element of `list_first_steps`, named like the step (`str(step)`), and
            `_unreadable`.
        columns: columns with a path. A column of a list type takes all values of its element. Any other column takes
            the value at the path's index, or the first value if the path has no index.

    Returns:
        A table with the columns, in order; with `_failures`, which repeats the name of a column for each value of the
        column that could not be converted, and is null if every value could be converted; and with `_unreadable`.
    """
    failures: dict[int, list[str]] = {}
    arrays = [_convert_texts(elements[str(_find_first_step(column))], column, failures) for column in columns]
    failed = pa.array([failures.get(row) for row in range(len(elements))], pa.list_(pa.string()))
    return pa.Table.from_arrays([*arrays, failed, elements[UNREADABLE]], schema=build_attributes_schema(columns))


def build_attributes_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the schema of the table that `build_attributes` returns."""
    own = (FAILURES, pa.list_(pa.string())), (UNREADABLE, pa.bool_())
    return pa.schema([*(column.arrow for column in columns), *own])


def count_failures(attributes: pa.Table) -> Counter[str]:
    """Return the number of values that could not be converted, by column; `metadata` counts unreadable metadata."""
    failures = Counter(pc.list_flatten(attributes[FAILURES]).to_pylist())
    if unreadable := pc.sum(attributes[UNREADABLE]).as_py():
        failures[METADATA] += unreadable
    return failures


def _find_first_step(column: Column) -> Step:
    """Return the top-level element that contains the column's value, without index."""
    return replace(column.path[0], index=None)


def _convert_texts(texts: pa.ChunkedArray, column: Column, failures: dict[int, list[str]]) -> pa.Array:
    # Instances of a series share most texts. Each distinct text is decoded once.
    encoded = texts.combine_chunks().dictionary_encode()
    converter = _Converter(column)
    converted = list(map(converter.convert, encoded.dictionary.cast(pa.binary()).to_pylist()))
    if any(failed for _, failed in converted):
        for row, place in enumerate(encoded.indices.to_pylist()):
            if place is not None and (failed := converted[place][1]):
                failures.setdefault(row, []).extend([column.name] * failed)
    return pa.array([value for value, _ in converted], column.type).take(encoded.indices)


_Trim = Callable[[str, str], str]
"""Function that removes padding from a text."""

_TRAILING_ONLY = frozenset({"LT", "ST", "UC", "UR", "UT"})
"""Value representations whose leading blanks are part of the value."""


class _Converter:
    """Converter from the texts of an element to the values of a column."""

    def __init__(self, column: Column) -> None:
        self._path = column.path
        self._decode = _build_path_decoder(column.path).decode
        self._is_list = pa.types.is_list(column.type)
        self._to_type = _CONVERTERS[column.type.value_type if self._is_list else column.type]

    def convert(self, text: bytes) -> tuple[Any, int]:
        """Return the column's value, and the number of values that could not be converted: at most 1, except of lists.

        Args:
            text: JSON text of the first element of the column's path.
        """
        try:
            values, trim = self._find(text)
        except _UNCONVERTIBLE:
            return None, 1
        if values is None:
            return None, 0
        failed, converted = 0, []
        index = self._path[-1].index or 0
        for value in values if self._is_list else values[index : index + 1]:
            try:
                converted.append(None if value is None else self._to_type(value, trim))
            except _UNCONVERTIBLE:
                converted.append(None)
                failed += 1
        return converted if self._is_list else next(iter(converted), None), failed

    def _find(self, text: bytes) -> tuple[list[Any] | None, _Trim]:
        """Return the values of the element at the end of the path, and the function that removes their padding."""
        try:
            element = self._decode(text)
            values = read_values(element)
        except msgspec.ValidationError:  # a malformed element outside the path must not matter
            element = msgspec.json.decode(text)
            values = read_values(element)
        for sequence, step in pairwise(self._path):
            index = sequence.index or 0
            element = _find_member(values[index], step) if values and index < len(values) else None
            values = read_values(element)
        is_long = isinstance(element, dict) and element.get("vr") in _TRAILING_ONLY
        return values, str.rstrip if is_long else str.strip


@lru_cache
def _build_path_decoder(path: tuple[Step, ...]) -> msgspec.json.Decoder[Any]:
    """Return a decoder for the first element of a path, which skips everything that is not on the path.

    A sequence may have a thousand items.
    """
    kind: Any = Any
    object_with: Any = TypedDict  # type checkers expect members known in advance; these come from the path
    for step in reversed(path[1:]):
        if step.creator:  # only the whole item shows the tag of a private element
            kind = Any
        else:
            items: Any = list[object_with("item", {step.tag: kind}, total=False) | None]  # type: ignore[misc]
            kind = object_with("sequence", {"Value": items | None}, total=False)
    return msgspec.json.Decoder(kind)


def _find_member(item: object, step: Step) -> object:
    """Return an element of a sequence's item; None if the item or the element is missing.

    Raises:
        TypeError: the item is not a JSON object.
    """
    if item is None:
        return None
    if not isinstance(item, dict):
        raise TypeError
    return item.get(find_tag(item, step))


def _to_text(value: object, trim: _Trim) -> str | None:
    """Return a string, a number as text, or the alphabetic form of a person's name, without padding; None if empty."""
    if isinstance(value, dict) and (not value or value.keys() & {"Alphabetic", "Ideographic", "Phonetic"}):
        value = value.get("Alphabetic")
        if value is None:
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return trim(value, PADDING) or None
    raise ValueError


def _strip(value: object) -> str:
    """Return a text without padding and white space.

    Raises:
        TypeError: the value is not a text.
    """
    if not isinstance(value, str):
        raise TypeError
    return value.replace("\0", " ").strip()


def _to_number(value: object) -> int | float | None:
    """Return a JSON number, or the number in a text; None for an empty text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = _strip(value)
    if not text:
        return None
    if "_" in text:
        raise ValueError
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _to_integer(bits: int, value: object, _: _Trim) -> int | None:
    number = _to_number(value)
    if number is None:
        return None
    limit = 2 ** (bits - 1)
    if number != int(number) or not -limit <= number < limit:
        raise ValueError
    return int(number)


def _to_double(value: object, _: _Trim) -> float | None:
    number = _to_number(value)
    if number is None:
        return None
    if not math.isfinite(number):  # NaN does not equal itself; the table's log, JSON, can hold neither NaN nor infinity
        raise ValueError
    return float(number)


_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_DATE_TIME = re.compile(r"\d{14}(\.\d{1,6})?[+-]\d{4}", re.ASCII)


def _to_date(value: object, _: _Trim) -> date | None:
    """Return the date of a DA value, written as YYYYMMDD or in the old form YYYY.MM.DD; None for an empty text."""
    text = _strip(value)
    if not text:
        return None
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError
    return date(int(match[1]), int(match[3]), int(match[4]))


def _to_date_time(value: object, _: _Trim) -> datetime | None:
    """Return the time of a DT value in UTC; None for an empty text.

    The value must have seconds, and an offset from UTC: without an offset it is not a point in time.
    """
    text = _strip(value)
    if not text:
        return None
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError
    return datetime.strptime(text, f"%Y%m%d%H%M%S{'.%f' if match[1] else ''}%z").astimezone(UTC)


_CONVERTERS: dict[pa.DataType, Callable[[Any, _Trim], Any]] = {
    pa.string(): _to_text,
    pa.int32(): partial(_to_integer, 32),
    pa.int64(): partial(_to_integer, 64),
    pa.float64(): _to_double,
    pa.date32(): _to_date,
    TIMESTAMP: _to_date_time,
}
