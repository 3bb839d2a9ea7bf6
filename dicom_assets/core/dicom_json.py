"""Values of DICOM JSON elements, picked by tag and converted to the columns' types.

A value that cannot be converted becomes null and is counted; nothing here raises on a value.

Source: DICOM PS3.18 Annex F (the JSON model), PS3.5 section 6.2 (value representations).
"""

import math
import re
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
from dicom_assets.core.elements import UNDECODABLE, UNREADABLE, split_elements, tag_in, values_of
from dicom_assets.core.schema import TIMESTAMP, Column

METADATA = "metadata"
"""Name under which metadata that is no DICOM JSON object is counted."""

FAILURES = "_failures"
"""The column of `build_attributes` that names, for each row, the columns whose values could not be converted."""

_UNCONVERTIBLE = (*UNDECODABLE, ValueError, TypeError, OverflowError)
"""What is raised for an element or a value that has no place in its column."""


def split_metadata(metadata: pa.ChunkedArray, columns: Sequence[Column]) -> pa.Table:
    """One row per metadata text: the texts of the elements that the columns are made from.

    Args:
        metadata: DICOM JSON objects as strings; null where the service gave none.
        columns: with a path.
    """
    return split_elements(metadata, list(dict.fromkeys(map(_first, columns))))


def build_attributes(elements: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """One row per metadata text: the value of each column's element, in the column's type.

    Args:
        elements: what `split_metadata` gave for these columns.
        columns: with a path. A column of a list type takes all values of its element, another the first or that of the
            path's index.

    Returns:
        A table with the columns, in order, and `_failures`: the name of a column once for each of its values that could
        not be converted, null where there is none. Metadata that is no DICOM JSON object gives a row of nulls and
        counts under `metadata`.
    """
    failures: dict[int, list[str]] = {}
    if pc.any(elements[UNREADABLE]).as_py():
        failures = {row: [METADATA] for row, is_one in enumerate(elements[UNREADABLE].to_pylist()) if is_one}
    arrays = [_convert(elements[str(_first(column))], column, failures) for column in columns]
    failed = pa.array([failures.get(row) for row in range(len(elements))], pa.list_(pa.string()))
    return pa.Table.from_arrays([*arrays, failed], schema=attributes_schema(columns))


def attributes_schema(columns: Sequence[Column]) -> pa.Schema:
    """The columns that `build_attributes` gives."""
    return pa.schema([*(column.arrow for column in columns), (FAILURES, pa.list_(pa.string()))])


def _first(column: Column) -> Step:
    """The top-level element in which the column's value lies, whichever of its values is meant."""
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


class _Converter:
    """Makes a column's values from the texts of its element."""

    def __init__(self, column: Column) -> None:
        self._path = column.path
        self._decode = _way_decoder(column.path).decode
        self._is_list = pa.types.is_list(column.type)
        self._to_type = _CONVERTERS[column.type.value_type if self._is_list else column.type]

    def convert(self, text: bytes) -> tuple[Any, int]:
        """The value, and how many could not be converted: of a list any number."""
        try:
            values = self._find(text)
        except _UNCONVERTIBLE:
            return None, 1
        if values is None:
            return None, 0
        failed, converted = 0, []
        index = self._path[-1].index or 0
        for value in values if self._is_list else values[index : index + 1]:
            try:
                converted.append(None if value is None else self._to_type(value))
            except _UNCONVERTIBLE:
                converted.append(None)
                failed += 1
        return converted if self._is_list else next(iter(converted), None), failed

    def _find(self, text: bytes) -> list[Any] | None:
        """The values of the element; below the top level, of the item that the path means of each sequence."""
        try:
            values = values_of(self._decode(text))
        except msgspec.ValidationError:  # something beside the way is malformed, and need not matter
            values = values_of(msgspec.json.decode(text))
        for sequence, step in pairwise(self._path):
            index = sequence.index or 0
            values = values_of(_member(values[index], step)) if values and index < len(values) else None
        return values


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


def _date(value: object) -> date | None:
    """DA in its form YYYYMMDD or the old YYYY.MM.DD."""
    if not isinstance(value, str):
        raise TypeError
    text = value.strip()
    if not text:
        return None
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError
    return date(int(match[1]), int(match[3]), int(match[4]))


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
