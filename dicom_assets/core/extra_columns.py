"""Columns that users add to the tables: a list in a file, checked entry by entry.

An entry names the column, the DICOM element its values come from, their type, and what the element describes:

    [[columns]]
    name = "kvp"
    tag = "00180060"                # or "(0018,0060)"; into a sequence: "(0040,0275).(0032,1064)"
    type = "double"
    grain = "instance"              # study, series or instance
    description = "Peak kilovoltage"
"""

import re

from dicom_assets.core.errors import SettingsError
from dicom_assets.core.schema import TABLES, Column, Grain, type_names

REQUIRED = ("name", "tag", "type", "grain")
OPTIONAL = ("description",)

_LIST_KEYS = ("columns", "column")
_NAME = re.compile(r"[a-z][A-Za-z0-9]*")
_TAG = re.compile(r"\(?\s*([0-9A-Fa-f]{4})[\s,]*([0-9A-Fa-f]{4})\s*\)?")
_OWN_NAMES = {column.name.casefold(): column.name for table in TABLES for column in table.columns}


def parse_extra_columns(document: object) -> tuple[tuple[Column, Grain], ...]:
    """The users' columns in the file's order, each with the grain that decides which tables carry it.

    Args:
        document: What a TOML or YAML reader made of the file: a list of entries under the key `columns` (or `column`).

    Returns:
        Columns whose tags are normalised to eight upper-case hexadecimal digits, joined by dots into sequences.

    Raises:
        SettingsError: lists every entry, by its place from 1, and field that cannot be used.
    """
    entries = _entries(document)
    problems: list[str] = []
    found: list[tuple[Column, Grain]] = []
    taken = dict(_OWN_NAMES)
    for place, entry in enumerate(entries, start=1):
        if wrong := _problems(entry, taken):
            problems += [f"entry {place}: {problem}" for problem in wrong]
            continue
        found.append(_build_column(entry))
        taken[entry["name"].casefold()] = entry["name"]
    if problems:
        raise SettingsError("; ".join(problems))
    return tuple(found)


def _entries(document: object) -> list[dict[str, str]]:
    if not isinstance(document, dict) or len(document) != 1 or next(iter(document)) not in _LIST_KEYS:
        raise SettingsError('the file must hold one list of entries, under the key "columns"')
    entries = next(iter(document.values()))
    if not isinstance(entries, list):
        raise SettingsError('"columns" must be a list of entries ([[columns]] in TOML)')
    return entries


def _build_column(entry: dict[str, str]) -> tuple[Column, Grain]:
    description = entry.get("description", "Added by DICOM_EXTRA_COLUMNS")
    column = Column(entry["name"], type_names[entry["type"]], description, _normal_tag(entry["tag"]))
    return column, Grain(entry["grain"])


def _problems(entry: object, taken: dict[str, str]) -> list[str]:
    if not isinstance(entry, dict):
        return [f"is no table of fields; give it {', '.join(REQUIRED)}"]
    unknown = [str(field) for field in entry if field not in REQUIRED + OPTIONAL]
    problems = [f"{field}: no such field; known are {', '.join(REQUIRED + OPTIONAL)}" for field in unknown]
    for field in REQUIRED + OPTIONAL:
        if field in entry:
            problem = _value_problem(field, entry[field], taken)
        else:
            problem = "is missing" if field in REQUIRED else None
        if problem:
            problems.append(f"{field}: {problem}")
    return problems


def _value_problem(field: str, value: object, taken: dict[str, str]) -> str | None:
    """What is wrong with a field's value; None for a good one."""
    problem = None
    if not isinstance(value, str):
        problem = "must be text; put it in quotes"
    elif field == "name" and not _NAME.fullmatch(value):
        problem = f"{value!r} is not camelCase: a small letter, then letters and digits only"
    elif field == "name" and (other := taken.get(value.casefold())) is not None:
        problem = f"{value!r} is taken by the column {other!r} (upper and lower case are one); choose another"
    elif field == "tag" and _normal_tag(value) is None:
        problem = (
            f"{value!r} is no tag: eight hexadecimal digits such as 00180050 or (0018,0050), "
            "joined by dots to reach into a sequence"
        )
    elif field == "type" and value not in type_names:
        problem = f"{value!r} is unknown; known are {', '.join(type_names)}"
    elif field == "grain" and value not in list(Grain):
        problem = f"{value!r} is unknown; known are {', '.join(Grain)}"
    return problem


def _normal_tag(text: str) -> str | None:
    """The path's tags as eight upper-case digits each, joined by dots; None where one of them is no tag."""
    matches = [_TAG.fullmatch(part.strip()) for part in text.split(".")]
    tags = ["".join(match.groups()).upper() for match in matches if match]
    return ".".join(tags) if len(tags) == len(matches) else None
