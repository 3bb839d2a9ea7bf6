"""Values of DICOM JSON elements, picked by tag and converted to the columns' types.

A value that cannot be converted becomes null and is counted; nothing here raises on a value. Padding, blanks and NULs
at a value's ends, is no part of the value, and a value of padding alone is null.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 6.2 (value representations).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.element_path import Step
from dicom_assets.core.elements import PADDING, UNDECODABLE, tag_in, values_of
from dicom_assets.core.schema import TIMESTAMP, Column

METADATA = "metadata"
"""Name under which metadata that could not be had, or is no DICOM JSON object, is counted."""

UNREADABLE = "_unreadable"
"""The column that marks rows without metadata that is a DICOM JSON object."""

FAILURES = "_failures"
"""The column of `build_attributes` that names, for each row, the columns whose values could not be converted."""

_UNCONVERTIBLE = (*UNDECODABLE, ValueError, TypeError, OverflowError)
"""Exceptions for an element or a value that has no place in its column."""


def first_steps(columns: Sequence[Column]) -> list[Step]:
    """Return the top-level elements in which the columns' values lie, each once, without indexes."""
    return list(dict.fromkeys(map(_first, columns)))


def build_attributes(elements: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Return one row per metadata text: the value of each column's element, in the column's type.

    Args:
        elements: the texts of the elements that `first_steps` names, named as the steps are written, and `_unreadable`.
        columns: with a path. A column of a list type takes all values of its element, another the first or that of the
            path's index.

    Returns:
        A table with the columns, in order; `_failures`: the name of a column once for each of its values that could
        not be converted, null where there is none; and `_unreadable`.
    """
    failures: dict[int, list[str]] = {}
    arrays = [_convert(elements[str(_first(column))], column, failures) for column in columns]
    failed = pa.array([failures.get(row) for row in range(len(elements))], pa.list_(pa.string()))
    return pa.Table.from_arrays([*arrays, failed, elements[UNREADABLE]], schema=attributes_schema(columns))


def attributes_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the columns that `build_attributes` gives."""
    own = (FAILURES, pa.list_(pa.string())), (UNREADABLE, pa.bool_())
    return pa.schema([*(column.arrow for column in columns), *own])


def count_failures(attributes: pa.Table) -> Counter[str]:
    """Return how many values could not be converted, by column; unreadable metadata counts under `metadata`."""
    failures = Counter(pc.list_flatten(attributes[FAILURES]).to_pylist())
    if unreadable := pc.sum(attributes[UNREADABLE]).as_py():
        failures[METADATA] += unreadable
    return failures


def _first(column: Column) -> Step:
    """Return the top-level element in which the column's value lies, whichever of its values is meant."""
    return replace(column.path[0], index=None)


def _convert(texts: pa.ChunkedArray, column: Column, failures: dict[int, list[str]]) -> pa.Array:
    # Instances of a series share most texts, and each is decoded once.
    encoded = texts.combine_chunks().dictionary_encode()
    converter = _Converter(column)
    converted = list(map(converter.convert, encoded.dictionary.cast(pa.binary()).to_pylist()))
    if any(failed for _, failed in converted):
        for row, place in enumerate(encoded.indices.to_pylist()):
            if place is not None and (failed := converted[place][1]):
                failures.setdefault(row, []).extend([column.name] * failed)
    return pa.array([value for value, _ in converted], column.type).take(encoded.indices)


_Trim = Callable[[str, str], str]
"""Takes the padding from a text."""

_TRAILING_ONLY = frozenset({"LT", "ST", "UC", "UR", "UT"})
"""Value representations whose leading blanks are part of the value."""


class _Converter:
    """Makes a column's values from the texts of its element."""

    def __init__(self, column: Column) -> None:
        self._path = column.path
        self._decode = _way_decoder(column.path).decode
        self._is_list = pa.types.is_list(column.type)
        self._to_type = _CONVERTERS[column.type.value_type if self._is_list else column.type]

    def convert(self, text: bytes) -> tuple[Any, int]:
        """Return the value, and how many could not be converted: of a list any number."""
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
        """Return the values of the element at the path's end, and how their padding goes."""
        try:
            element = self._decode(text)
            values = values_of(element)
        except msgspec.ValidationError:  # something beside the way is malformed, and need not matter
            element = msgspec.json.decode(text)
            values = values_of(element)
        for sequence, step in pairwise(self._path):
            index = sequence.index or 0
            element = _member(values[index], step) if values and index < len(values) else None
            values = values_of(element)
        is_long = isinstance(element, dict) and element.get("vr") in _TRAILING_ONLY
        return values, str.rstrip if is_long else str.strip


@lru_cache
def _way_decoder(path: tuple[Step, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes an element, of sequences only what lies on the way to the path's end: they may hold a thousand items."""
    kind: Any = Any
    partial: Any = TypedDict  # whose members are known only now, which type checkers do not expect
    for step in reversed(path[1:]):
        if step.creator:  # what its tag is shows in the whole item
            kind = Any
        else:
            items: Any = list[partial("item", {step.tag: kind}, total=False) | None]  # type: ignore[misc]
            kind = partial("sequence", {"Value": items | None}, total=False)
    return msgspec.json.Decoder(kind)


def _member(item: object, step: Step) -> object:
    """An element of a sequence's item; None where either is missing.

    Raises:
        TypeError: this is no item.
    """
    if item is None:
        return None
    if not isinstance(item, dict):
        raise TypeError
    return item.get(tag_in(item, step))


def _text(value: object, trim: _Trim) -> str | None:
    """Return a string without padding, the alphabetic form of a person's name, or a number as text; None if empty."""
    if isinstance(value, dict) and (not value or value.keys() & {"Alphabetic", "Ideographic", "Phonetic"}):
        value = value.get("Alphabetic")
        if value is None:
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return trim(value, PADDING) or None
    raise ValueError


def _bare(value: object) -> str:
    """Return a text of digits and signs without padding and white space.

    Raises:
        TypeError: the value is no text.
    """
    if not isinstance(value, str):
        raise TypeError
    return value.replace("\0", " ").strip()


def _number(value: object) -> int | float | None:
    """Return a JSON number, or the number that a text holds; None for an empty text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = _bare(value)
    if not text:
        return None
    if "_" in text:
        raise ValueError
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _integer(bits: int) -> Callable[[object, _Trim], int | None]:
    limit = 2 ** (bits - 1)

    def integer(value: object, _: _Trim) -> int | None:
        number = _number(value)
        if number is None:
            return None
        if number != int(number) or not -limit <= number < limit:
            raise ValueError
        return int(number)

    return integer


def _double(value: object, _: _Trim) -> float | None:
    number = _number(value)
    if number is None:
        return None
    if not math.isfinite(number):  # equals nothing, not even itself, and has no form in the log's JSON
        raise ValueError
    return float(number)


_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_DATE_TIME = re.compile(r"\d{14}(\.\d{1,6})?[+-]\d{4}", re.ASCII)


def _date(value: object, _: _Trim) -> date | None:
    """Return a DA in its form YYYYMMDD or the old YYYY.MM.DD."""
    text = _bare(value)
    if not text:
        return None
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError
    return date(int(match[1]), int(match[3]), int(match[4]))


def _date_time(value: object, _: _Trim) -> datetime | None:
    """Return a DT down to its second, with its offset from UTC: without one it is no point in time."""
    text = _bare(value)
    if not text:
        return None
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError
    return datetime.strptime(text, f"%Y%m%d%H%M%S{'.%f' if match[1] else ''}%z").astimezone(UTC)


_CONVERTERS: dict[pa.DataType, Callable[[Any, _Trim], Any]] = {
    pa.string(): _text,
    pa.int32(): _integer(32),
    pa.int64(): _integer(64),
    pa.float64(): _double,
    pa.date32(): _date,
    TIMESTAMP: _date_time,
}
