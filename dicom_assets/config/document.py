"""Files that users write in TOML or YAML: read them, and report every problem with its line.

No TOML parser reports the line of a value. But if a TOML file is cut between two statements, the part before the cut is
valid TOML too. So the shortest part that has a value ends with the value's line. These parts are parsed only if there
is a problem to report.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dicom_assets.core.errors import SettingsError
from dicom_assets.core.problem import Place, Problem

T = TypeVar("T")

_SHOWN_CHARACTERS = 100
_TOML_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

Lines = dict[Place, int]
"""Line, counted from 1, on which each value of a file begins."""


def load_document(
    path: Path,
    parse: Callable[[object], tuple[T, Sequence[Problem]]],
    *,
    help_page: str,
    show: Callable[[str], str] = str,
) -> T:
    """Return the parsed content of a TOML or YAML file.

    Args:
        path: path of the file.
        parse: returns the content that the file's values describe, and all problems with the values.
        help_page: the page of the docs that describes the file.
        show: returns the part of a line that a message may show.

    Raises:
        SettingsError: the file cannot be read, or is invalid; the message shows every invalid line.
    """
    readers = {".toml": (_read_toml, _find_toml), ".yaml": (_read_yaml, _find_yaml), ".yml": (_read_yaml, _find_yaml)}
    if path.suffix.lower() not in readers:
        raise SettingsError(f"{path} is neither TOML nor YAML by its name. Name it *.toml, *.yaml or *.yml.")
    read, find = readers[path.suffix.lower()]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror}). Set the path of a file that this user may read."
        raise SettingsError(why) from error
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise SettingsError(f"{path}, line {line}: this is no text in UTF-8. Save the file as UTF-8.") from error
    text = text.replace("\r\n", "\n")
    try:
        document = read(text)
    except _SyntaxFoundError as problem:
        raise SettingsError(_explain(path, text, [problem.found], help_page, show)) from None
    content, problems = parse(document)
    if problems:
        raise SettingsError(_explain(path, text, list(_with_lines(problems, find(text))), help_page, show))
    return content


def _with_lines(problems: Sequence[Problem], lines: Lines) -> Iterator[tuple[int | None, str]]:
    for problem in problems:
        before = f" It stands in line {_line(problem.other, lines)} already." if problem.other else ""
        yield _line(problem.place, lines), problem.text + before


def _line(place: Place, lines: Lines) -> int | None:
    """Return the value's line; for a missing value, the line of the nearest enclosing value; None if there is none."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _explain(
    path: Path, text: str, problems: list[tuple[int | None, str]], help_page: str, show: Callable[[str], str]
) -> str:
    """Return a message with the problems in the order of their lines, each below its line."""
    lines = text.split("\n")
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    told = [f"{path} has {count}. Correct the file; {help_page} says what can stand in it."]
    shown = None
    for line, problem in sorted(problems, key=lambda each: each[0] or 0):
        if line is not None and line != shown:
            content = show(lines[line - 1].strip()) if line <= len(lines) else ""
            cut = content if len(content) <= _SHOWN_CHARACTERS else f"{content[:_SHOWN_CHARACTERS]}…"
            told.append(f"    line {line}: {cut}")
        shown = line
        told.append(f"      {problem}")
    return "\n".join(told)


class _SyntaxFoundError(Exception):
    """Text with a syntax error."""

    def __init__(self, line: int | None, column: int | None, text: str) -> None:
        super().__init__(text)
        at = "" if column is None else f" (column {column})"
        self.found = (line, f"{text}{at}")


def _read_toml(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _TOML_ERROR.fullmatch(str(error))
        if match is None or match[2] is None:
            what = f"{match[1] if match else error}, at the end of the file"
            line, column = text.rstrip().count("\n") + 1, None
        else:
            what, line, column = match[1], int(match[2]), int(match[3])
        if what == "Cannot overwrite a value":
            what = "the name was given before, take one out"
        raise _SyntaxFoundError(line, column, f"This is no valid TOML: {what}.") from error


def _find_toml(text: str) -> Lines:
    """Return the line of every value of a valid text."""
    found: Lines = {}
    lines = text.split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        start = "\n".join(lines[:end])
        is_whole = False
        for closing in ("", "]"):  # a list may span lines, with each of its values on a separate line
            with suppress(tomllib.TOMLDecodeError):
                document = tomllib.loads(start + closing)
                is_whole = not closing
                for place in _places(document):
                    found.setdefault(place, begin if is_whole else end)
                break
        if is_whole:
            begin = end + 1
    return found


def _places(value: object, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    members: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from _places(member, (*place, key))


def _read_yaml(text: str) -> object:
    """Return the text's values. Every scalar is a string, so that 00100020 is a tag and not an octal number."""
    import yaml

    try:
        first: Lines = {}
        for place, node in _yaml_nodes(yaml.compose(text, yaml.CBaseLoader)):
            line = node.start_mark.line + 1
            if place in first:  # the parser would silently take the last value
                raise _SyntaxFoundError(line, None, f"{place[-1]} stands in line {first[place]} already. Take one out.")
            first[place] = line
        return yaml.load(text, yaml.CBaseLoader)  # noqa: S506 — it makes texts, lists and mappings, nothing else
    except yaml.MarkedYAMLError as error:
        mark, what = error.problem_mark or error.context_mark, error.problem or error.context
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise _SyntaxFoundError(line, column, f"This is no valid YAML: {what}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _SyntaxFoundError(line, None, f"This is no valid YAML: {error.reason}.") from error


def _find_yaml(text: str) -> Lines:
    """Return the line of every value of a valid text."""
    import yaml

    return {place: node.start_mark.line + 1 for place, node in _yaml_nodes(yaml.compose(text, yaml.CBaseLoader))}


def _yaml_nodes(root: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the place of every value with the node at which it begins; a mapping's value begins at its key."""
    waiting: list[tuple[Place, Any]] = [((), root)]
    seen: set[int] = set()
    while waiting:
        place, node = waiting.pop()
        if (
            node is None or isinstance(node.value, str) or id(node) in seen
        ):  # an alias is walked once: it may contain itself
            continue
        seen.add(id(node))
        for position, member in enumerate(node.value):
            key, value = member if isinstance(member, tuple) else (member, member)
            below = (*place, str(key.value) if isinstance(member, tuple) else position)
            yield below, key
            waiting.append((below, value))
