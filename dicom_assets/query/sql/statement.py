"""Text of an SQL statement: its kind, the names in the text, and the place of an error.

The text is split into tokens and not parsed further: only the engine decides whether the statement is valid.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from dicom_assets.core.errors import LakeQueryError

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<text> '(?:[^']|'')*'? )
    | (?P<quoted> "(?:[^"]|"")*"? | `[^`]*`? )
    | (?P<word> [^\W\d]\w* )
    | (?P<number> \d\w* )
    | (?P<sign> \S )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUERIES = frozenset({"SELECT", "WITH", "VALUES"})
_QUESTIONS = _QUERIES | {"DESCRIBE", "DESC", "SHOW", "EXPLAIN"}
_EXPLAIN_HOW = frozenset({"ANALYZE", "VERBOSE", "FORMAT", "TREE", "INDENT", "PGJSON", "GRAPHVIZ"})
_LONGEST_LINE = 100
"""Most characters of a line to show around an error."""
_LONG_NUMBER = 4
"""Fewest digits of a number that is hidden, because it may identify a patient."""
_HIDDEN = "…"


class Token(NamedTuple):
    """Word, name, literal, comment or sign of a statement."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Position behind the last character."""
        return self.start + len(self.text)

    @property
    def name(self) -> str:
        """Text without the quotes around it."""
        return self.text.strip("\"`'")

    @property
    def keyword(self) -> str:
        """Text in upper case, for comparison with SQL keywords; empty if the token is not a bare word."""
        return self.text.upper() if self.kind == "word" else ""


@dataclass(frozen=True)
class Statement:
    """Statement that reads and does not write."""

    text: str
    tokens: tuple[Token, ...]
    """Tokens without comments and final semicolons."""

    @property
    def body(self) -> str:
        """Text up to the end of the last token."""
        return self.text[: self.tokens[-1].end]

    @property
    def keyword(self) -> str:
        """First word of the statement, in upper case."""
        return next(token.keyword for token in self.tokens if token.text != "(")

    @property
    def is_query(self) -> bool:
        """True if the statement gives rows that can be counted: not SHOW, DESCRIBE or EXPLAIN."""
        return self.keyword in _QUERIES

    @property
    def names(self) -> frozenset[str]:
        """Every text that may name a table or a column."""
        return frozenset(token.name for token in self.tokens if token.kind in ("word", "quoted"))

    def find(self, name: str, *, kinds: Collection[str] = ("word", "quoted")) -> Token | None:
        """Return the first token with a name in any case, preferably in the given case; None if there is none."""
        found = [token for token in self.tokens if token.kind in kinds and token.name.lower() == name.lower()]
        return next((token for token in found if token.name == name), found[0] if found else None)

    def find_at(self, line: int, column: int) -> Token | None:
        """Return the token at a line and a column, or the next token after this place; None if none follows.

        Args:
            line: number of the line, from 1.
            column: number of the character in the line, from 1.
        """
        lines = self.text.split("\n")
        place = sum(len(before) + 1 for before in lines[: line - 1]) + column - 1
        return next((token for token in self.tokens if token.end > place), None)

    def refuse(self, reason: str, token: Token | None = None, *, known: Collection[str] = ()) -> LakeQueryError:
        """Return an error with a reason, the line of a token, and a mark under the token.

        Literals in the line are hidden, because they may identify a patient.

        Args:
            reason: sentences that explain the error.
            token: token that caused the error; None if it is not known.
            known: names that may be shown although they are in quotes.
        """
        return LakeQueryError(reason if token is None else f"{reason}\n\n{self._build_excerpt(token, known)}")

    def hide_values(self, reason: str, *, known: Collection[str] = ()) -> str:
        """Return an engine's reason without quoted texts and long numbers, because both may identify a patient.

        Args:
            reason: message of the engine.
            known: names that may be shown although they are in quotes.
        """
        reason = re.sub(r"'([^']*)'|\"([^\"]*)\"", lambda pair: _hide_quoted(pair, known), reason)
        for token in self.tokens:
            if token.kind == "text" and token.name:
                reason = reason.replace(token.name, _HIDDEN)
        return re.sub(rf"\b\d{{{_LONG_NUMBER},}}\b", _HIDDEN, reason)

    def _build_excerpt(self, token: Token, known: Collection[str]) -> str:
        shown = "".join(self._hide_literals(known)).replace("\t", " ")
        first = shown.rfind("\n", 0, token.start) + 1
        number = shown.count("\n", 0, first) + 1
        end = shown.find("\n", token.start)
        line = shown[first:] if end < 0 else shown[first:end]
        place = token.start - first
        cut = max(0, min(place - _LONGEST_LINE // 2, len(line) - _LONGEST_LINE))
        before = f"  line {number}: " if "\n" in shown.rstrip() else "  "
        before, shift = (f"{before}{_HIDDEN} ", cut) if cut else (before, 0)
        part = line[shift : shift + _LONGEST_LINE].rstrip()
        mark = "^" * max(1, min(len(token.text), len(part) - (place - shift)))
        return f"{before}{part}\n{' ' * (len(before) + place - shift)}{mark}"

    def _hide_literals(self, known: Collection[str]) -> list[str]:
        """Return the text in pieces, with everything hidden that may identify a patient; positions stay unchanged."""
        pieces, place = [], 0
        for token in _split_tokens(self.text):
            pieces.append(self.text[place : token.start])
            text = token.text
            hidden = token.kind in ("text", "comment") or (token.kind == "quoted" and token.name not in known)
            if hidden or (token.kind == "number" and len(text) >= _LONG_NUMBER):
                text = re.sub(r"[^\n'\"`]", _HIDDEN, text)
            pieces.append(text)
            place = token.end
        return [*pieces, self.text[place:]]


def parse_statement(text: str) -> Statement:
    """Parse a text with exactly one statement, which reads and does not write.

    Raises:
        LakeQueryError: the text has no statement or several, or the statement writes.
    """
    tokens = _split_tokens(text)
    nested = next((token for token in tokens if token.kind == "comment" and "/*" in token.text[2:]), None)
    tokens = [token for token in tokens if token.kind != "comment"]
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    statement = Statement(text, tuple(tokens))
    if nested is not None:
        raise statement.refuse("A comment begins within a comment, which engines understand differently.", nested)
    words = [token for token in tokens if token.text != "("]
    if not words:
        raise LakeQueryError("There is no SQL statement. Try SHOW TABLES, or DESCRIBE instance.")
    for token in tokens:
        if token.text == ";":
            raise statement.refuse("There is more than one statement: ask one at a time.", token)
    first = words[0]
    if first.keyword == "EXPLAIN":
        first = next((word for word in words[1:] if word.keyword not in _EXPLAIN_HOW), first)
    allowed = _QUESTIONS if first is words[0] else _QUERIES
    if first.keyword not in allowed:
        near = suggest(first.keyword, allowed, likeness=0.8)  # DELETE and SELECT are alike to 0.67
        raise statement.refuse(
            f"Did you mean {near}?"
            if near
            else "Only statements that read are answered: SELECT, WITH, VALUES, DESCRIBE, SHOW and EXPLAIN of a query. "
            "The tables are written by materialising the assets.",
            first,
        )
    into = next((word for word in words if word.keyword == "INTO"), None)
    if into is not None:
        raise statement.refuse("INTO writes, and only statements that read are answered.", into)
    return statement


def suggest(name: str, names: Collection[str], *, likeness: float = 0.6) -> str | None:
    """Return the known name most similar to an unknown one; None if none is similar enough.

    Args:
        name: the unknown name.
        names: known names.
        likeness: least similarity, from 0 to 1.
    """
    by_lower = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), by_lower, 1, likeness)
    return by_lower[near[0]] if near else None


def _split_tokens(text: str) -> list[Token]:
    return [Token(str(found.lastgroup), found.group(), found.start()) for found in _TOKEN.finditer(text)]


def _hide_quoted(pair: re.Match[str], known: Collection[str]) -> str:
    content = pair[1] if pair[1] is not None else pair[2]
    return content if content in known else f"{pair[0][0]}{_HIDDEN}{pair[0][0]}"
