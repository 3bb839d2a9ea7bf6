"""Columns that users add to the tables, declared in a file; each entry of the file is checked.

An entry names the column and the DICOM element that gives the values. All other fields have defaults:

    [columns]
    sliceThickness = "SliceThickness"
    kvp = { tag = "(0018,0060)", type = "double", grain = "series", description = "Peak kilovoltage" }

The columns may also be a list; the name is then the field `name`:

    [[columns]]
    name = "sliceThickness"
    tag = "SliceThickness"
"""

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from dicom_assets.core.columns.data_dictionary import Dictionary
from dicom_assets.core.columns.extra_elements import Found, find_element
from dicom_assets.core.columns.schema import SERVICE, TABLES, Column, Grain, type_names
from dicom_assets.core.problem import Place, Problem

T = TypeVar("T")

FIELDS = ("name", "tag", "type", "grain", "description")
_OTHER_WORDS = {"table": "grain"}
"""Other accepted words for a field, by word."""
_MEANT = {"keyword": "tag", "path": "tag", "element": "tag", "vr": "type"}
_EXAMPLES = {"name": "sliceThickness", "tag": "SliceThickness"}
_LIST_KEYS = ("columns", "column")
_NAME = re.compile(r"[a-z][A-Za-z0-9]*")
_OWN_NAMES = {
    column.name.casefold(): (column.name, table.name) for table in TABLES for column in (SERVICE, *table.columns)
}
_SQL_WORDS = """
    all analyse analyze and anti any array as asc between both case cast check collate column constraint create
    cross current default deferrable desc describe distinct do drop else end escape except exists false fetch filter
    for foreign from full grant group having if in initially inner insert intersect into is join lateral leading
    left like limit natural not null of offset on only or order outer overlaps pivot placing primary qualify
    references returning right select semi show some summarize symmetric table tablesample then to trailing true
    union unique unpivot user using values variadic when where window with
"""
"""Words that are reserved in Spark, DuckDB, DataFusion or Polars unless quoted."""


@dataclass(frozen=True)
class ExtraColumns:
    """Columns and problems found in a file."""

    columns: tuple[tuple[Column, Grain], ...] = ()
    """Columns in the file's order, each with the grain that decides which tables have the column."""
    problems: tuple[Problem, ...] = ()
    """All problems of the file; if there is any, the columns must not be used."""


def parse_extra_columns(document: object, dictionary: Dictionary) -> ExtraColumns:
    """Parse the users' columns, and report every problem.

    Args:
        document: content of the file, as a TOML or YAML reader returns it.
        dictionary: DICOM data dictionary.
    """
    if not isinstance(document, dict) or not document:
        return ExtraColumns(
            problems=(Problem((), 'There is nothing in it. Give each column a line: NAME = "ELEMENT".'),)
        )
    columns: list[tuple[Column, Grain]] = []
    problems: list[Problem] = []
    taken: dict[str, Place] = {}
    for place, entry in _entries(document):
        read = _Reading(place, problems)
        if isinstance(entry, str):
            read.note(entry)
        else:
            columns += read.column(entry, dictionary, taken)
    return ExtraColumns(tuple(columns), tuple(problems))


def _entries(document: dict[object, object]) -> Iterator[tuple[Place, dict[str, object] | str]]:
    """Yield the place of every entry with its fields, including the name, or with a text that states the problem."""
    for key, entries in document.items():
        place: Place = (str(key),)
        if key not in _LIST_KEYS:
            yield place, f'{key!r} has no meaning here. Put the columns under the key "columns".'
        elif isinstance(entries, dict):
            for name, entry in entries.items():
                fields = entry if isinstance(entry, dict) else {"tag": entry}
                if "name" in fields:
                    yield (*place, name, "name"), f"The column's name stands before it already: {name}. Leave this out."
                else:
                    yield (*place, name), {"name": name, **fields}
        elif isinstance(entries, list):
            for position, entry in enumerate(entries):
                is_entry = isinstance(entry, dict)
                yield (
                    (*place, position),
                    entry if is_entry else 'This is no entry. Write { name = "kvp", tag = "KVP" }.',
                )
        else:
            yield place, f'"{key}" holds no columns. Give each a line below it: NAME = "ELEMENT".'


class _Reading:
    """Reader of one entry, which adds the entry's problems to a list."""

    def __init__(self, place: Place, problems: list[Problem]) -> None:
        self._place = place
        self._problems = problems

    def note(self, text: str, *fields: str, other: Place | None = None) -> None:
        self._problems.append(Problem((*self._place, *fields), text, other))

    def column(
        self, entry: dict[str, object], dictionary: Dictionary, taken: dict[str, Place]
    ) -> list[tuple[Column, Grain]]:
        """Return the column of the entry in a list, which is empty if the entry has problems.

        Args:
            entry: fields of the entry.
            dictionary: DICOM data dictionary.
            taken: place of the entry that uses each name, by name in lower case; the name of this entry is added.
        """
        before = len(self._problems)
        fields = self._texts(entry)
        name, tag = self._required("name", fields, entry), self._required("tag", fields, entry)
        if name is not None:
            self._check_name(name, taken)
        found = self._check("tag", find_element, tag, dictionary) if tag is not None else None
        type_name = fields.get("type")
        if found is not None and "type" not in entry:
            type_name = self._check("type", found.default_type)
        elif type_name is not None:
            self._check("type", _check_type, type_name, found)
        grain = self._check("grain", _parse_grain, fields.get("grain", Grain.INSTANCE.value))
        if len(self._problems) > before or name is None or found is None or type_name is None or grain is None:
            return []
        description = fields.get("description", "Added by DICOM_EXTRA_COLUMNS")
        return [(Column(name, type_names[type_name], description, found.tag), grain)]

    def _texts(self, entry: dict[str, object]) -> dict[str, str]:
        """Return the known fields that contain text; report all other fields."""
        texts: dict[str, str] = {}
        for word, value in entry.items():
            field = _OTHER_WORDS.get(word, word)
            if field not in FIELDS:
                self.note(_unknown_field(field), word)
            elif field in texts:
                self.note(f"{word}: it is given twice, {field} and {word} are one. Leave one of them out.", word)
            elif not isinstance(value, str):
                self.note(f"{field}: {value!r} is no text. Put it in quotes.", word)
            else:
                texts[field] = value
        return texts

    def _required(self, field: str, fields: dict[str, str], entry: dict[str, object]) -> str | None:
        if field not in entry:
            self.note(f'{field}: is missing. Add it, such as {field} = "{_EXAMPLES[field]}".', field)
        return fields.get(field)

    def _check(self, field: str, rule: Callable[..., T], *values: object) -> T | None:
        try:
            return rule(*values)
        except ValueError as error:
            self.note(f"{field}: {error}", field)
            return None

    def _check_name(self, name: str, taken: dict[str, Place]) -> None:
        folded = name.casefold()
        other = taken.setdefault(folded, self._place)
        if not _NAME.fullmatch(name):
            self.note(f"name: {name!r} is not camelCase: a small letter, then letters and digits only.", "name")
        elif folded in _OWN_NAMES:
            column, table = _OWN_NAMES[folded]
            text = f"name: {name!r} is taken by the column {column} of the table {table}"
            self.note(f"{text} (upper and lower case are one). Choose another.", "name")
        elif folded in _SQL_WORDS.split():
            self.note(f"name: {name!r} is a word of SQL, so queries would have to quote it. Choose another.", "name")
        elif other != self._place:
            text = f"name: {name!r} was given before (upper and lower case are one). Choose another."
            self.note(text, "name", other=other)


def _check_type(name: str, found: Found | None) -> None:
    if name not in type_names:
        raise ValueError(f"{name!r} is unknown; known are {', '.join(type_names)}.")
    if found is not None:
        found.check_type(name)


def _parse_grain(name: str) -> Grain:
    if name not in list(Grain):
        raise ValueError(f"{name!r} is unknown; known are {', '.join(Grain)}.")
    return Grain(name)


def _unknown_field(field: str) -> str:
    near = difflib.get_close_matches(field, FIELDS, n=1)
    meant = _MEANT.get(field) or (near[0] if near else None)
    hint = f"Did you mean {meant}?" if meant else f"Known are {', '.join(FIELDS)}."
    return f"{field}: there is no such field. {hint}"
