"""Errors of DataFusion translated for people: in the words of the tables, with the place in the query."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import LakeQueryError
from dicom_assets.query.sql.statement import Statement, Token, suggest

_NAME = r'(?:"([^"]+)"|(\w+))'
_LONGEST_REASON = 300
_HIDDEN_NAME = "such column"
_HARMLESS = re.compile(r"Divide by zero|Scalar subquery returned more than one row|(?i:overflow)")


@dataclass(frozen=True)
class Schemas:
    """Columns of the tables."""

    stored: Mapping[str, Sequence[str]]
    """Column names by existing table."""
    declared: Sequence[Table]
    """All tables, with the columns that the settings give them."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all tables and columns."""
        tables = {table.name for table in self.declared}
        declared = {name for table in self.declared for name in table.schema.names}
        return frozenset(tables | declared | {name for names in self.stored.values() for name in names})


def explain_error(reason: str, statement: Statement, schemas: Schemas, *, at_rows: bool = False) -> LakeQueryError:
    """Return the error for people that explains an error of DataFusion.

    Args:
        reason: text of DataFusion's error.
        statement: the failed statement.
        schemas: columns of the tables.
        at_rows: whether rows were being computed: then `reason` may hold values of rows in any form.
    """
    for pattern, explain in _EXPLANATIONS:
        found = re.search(pattern, reason)
        if found is not None:
            return statement.refuse(*explain(found, statement, schemas), known=schemas.names)
    if at_rows:
        harmless = _HARMLESS.search(reason)
        why = f": {harmless[0]}" if harmless else ""
        return statement.refuse(
            f"The query failed at a row{why}. A value is not what the query takes it for: look at its casts and "
            "calculations. TRY_CAST(… AS …) gives NULL for what cannot be cast, NULLIF(…, 0) for a division by zero.",
            _take_only([token for token in statement.tokens if token.text in "/%"]) if "by zero" in why else None,
            known=schemas.names,
        )
    text = reason.rpartition("caused by\n")[2].partition("\n")[0]
    text = re.sub(r"^((External|Schema|Internal|Arrow|Execution) error|Error during planning): ", "", text)
    text = statement.hide_values(text, known=schemas.names)[:_LONGEST_REASON].rstrip(".")
    return LakeQueryError(f"The lake could not answer the query: {text}.")


_Explanation = tuple[str, Token | None]
"""Sentences that explain an error, and the token that caused it; None if the token is not known."""


def _take_only(tokens: Sequence[Token]) -> Token | None:
    """Return the only token of a list; None for any other number.

    DataFusion names no place in a computation: the place is certain only if there is one candidate.
    """
    return tokens[0] if len(tokens) == 1 else None


def _explain_column(found: re.Match[str], statement: Statement, schemas: Schemas) -> _Explanation:
    qualifier, name = found[1] or found[2], found[3] or found[4]
    token = statement.find(name)
    in_quotes = token is not None and token.kind == "quoted"
    shown = _HIDDEN_NAME if in_quotes and name not in schemas.names else f"column {name}"
    mentioned = [table.name for table in schemas.declared if table.name in statement.names]
    asked = [qualifier] if qualifier in schemas.stored else [each for each in mentioned if each in schemas.stored]
    where = f" in {' or '.join(asked)}" if asked else ""
    near = suggest(name, [column for table in asked for column in schemas.stored[table]])
    declaring = [table.name for table in schemas.declared if table.name in asked and name in table.schema.names]
    elsewhere = [table.name for table in schemas.declared if name in table.schema.names and table.name not in asked]
    if declaring:
        hint = f" The settings declare it, but {declaring[0]} was not written since: materialise an hour."
    elif near is not None:
        hint = f" Did you mean {near}?" + (" Capitals count." if near.lower() == name.lower() else "")
    elif elsewhere:
        hint = f" It is in {', '.join(elsewhere)}: join by the key's columns."
    elif in_quotes:
        hint = " Double quotes are for names; text goes into single quotes."
    elif asked:
        hint = f" DESCRIBE {asked[0]} lists its columns."
    else:
        hint = ""
    return f"There is no {shown}{where}.{hint}", token


def _explain_table(found: re.Match[str], statement: Statement, schemas: Schemas) -> _Explanation:
    name = found[1].rpartition(".")[2]
    token = statement.find(name, kinds=("word", "quoted", "text"))
    names = [table.name for table in schemas.declared]
    near = suggest(name, names)
    hint = f"Did you mean {near}?" if near else f"Tables are {', '.join(names)}."
    shown = f"table {name}" if token is not None and token.kind == "word" else "such table"
    return f"There is no {shown}. {hint}", token


def _explain_function(found: re.Match[str], statement: Statement, _: Schemas) -> _Explanation:
    near = re.search(r"Did you mean '(\w+)'", found.string)
    hint = f" Did you mean {near[1]}?" if near else " SHOW FUNCTIONS lists all."
    return f"There is no function {found[1]}.{hint}", statement.find(found[1])


def _explain_arguments(found: re.Match[str], statement: Statement, _: Schemas) -> _Explanation:
    reason = re.search(r"' (expects \d+ arguments? but received \d+)", found.string)
    why = f"it {reason[1]}" if reason else "its arguments are of other types or another number"
    return f"The function {found[1]} cannot be used like this: {why}.", statement.find(found[1])


def _explain_syntax(found: re.Match[str], statement: Statement, _: Schemas) -> _Explanation:
    expected = re.search(r"Expected: (.+?), found", found[1])
    why = "."
    if expected is not None:
        why = f": {expected[1]} is expected here."
    elif "Unterminated" in found[1]:
        why = ": a quote is opened here and not closed."
    return f"This is not SQL{why}", statement.find_at(int(found[2]), int(found[3])) or statement.tokens[-1]


def _explain_end(_: re.Match[str], statement: Statement, __: Schemas) -> _Explanation:
    return "This is not SQL: something is missing behind its end.", statement.tokens[-1]


def _explain_ambiguous(found: re.Match[str], statement: Statement, schemas: Schemas) -> _Explanation:
    table = next((table for table in schemas.stored if table in statement.names), "table")
    reason = f"More than one table has the column {found[1]}: say which one, such as {table}.{found[1]}."
    return reason, statement.find(found[1])


def _explain_ungrouped(found: re.Match[str], statement: Statement, _: Schemas) -> _Explanation:
    name = found[1].rpartition(".")[2]
    reason = f"The column {name} is neither grouped nor aggregated: add it to GROUP BY, or use such as max({name})."
    return reason, statement.find(name)


def _explain_value(found: re.Match[str], statement: Statement, _: Schemas) -> _Explanation:
    token = statement.find(found[1].replace("'", "''"), kinds=("text",))
    if token is not None:
        kind = {"Date32": "a date, such as '2026-03-01'", "Int64": "a whole number"}.get(found[2], found[2])
        return f"This text cannot be read as {kind}.", token
    pairs = pairwise(statement.tokens)
    return (
        f"A value of the tables cannot be read as {found[2]}. TRY_CAST(… AS …) gives NULL for those that cannot.",
        _take_only([one for one, other in pairs if one.keyword == "CAST" or one.text == other.text == ":"]),
    )


def _explain_memory(*_: object) -> _Explanation:
    return (
        "The query has to hold more at once than DICOM_MAX_MEMORY_MB allows. Raise that, ask for fewer rows or "
        "columns, or ask with one of the tools in docs/readers.md.",
        None,
    )


_EXPLANATIONS: tuple[tuple[str, Callable[[re.Match[str], Statement, Schemas], _Explanation]], ...] = (
    (r"Resources exhausted", _explain_memory),
    (rf"No field named (?:{_NAME}\.)?{_NAME}\.", _explain_column),
    (r"table '(?:datafusion\.)?(?:public\.)?(.+?)' not found", _explain_table),
    (r"Invalid function '(\w+)'", _explain_function),
    (r"Function '(\w+)' (?:failed to match|expects)", _explain_arguments),
    (r"((?:Expected|Unterminated|Unexpected).*) at Line: (\d+), Column: (\d+)", _explain_syntax),
    (r"found: EOF", _explain_end),
    (r'Ambiguous reference to unqualified field "?(\w+)"?', _explain_ambiguous),
    (r'column "([\w.]+)" must appear in the GROUP BY', _explain_ungrouped),
    (r"[Cc]annot cast (?:string|value) '(.*?)' to value of (\w+) type", _explain_value),
)
