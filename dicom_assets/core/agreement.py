"""Whether tables agree with those they are made from, in numbers that say nothing about a patient."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.elements import trim_padding
from dicom_assets.core.merge import key_ids
from dicom_assets.core.schema import SERIES, STUDY

ROWS, SEQUENCES = "rows", "sequences"
_SIDE = "_side"
_COUNTS = pa.schema([*(SERIES.schema.field(name) for name in SERIES.key), (ROWS, pa.int64()), (SEQUENCES, pa.int64())])


@dataclass(frozen=True)
class Agreement:
    """What was found when a table's rows were held against what they ought to be."""

    expected: int = 0
    """Rows there ought to be."""
    missing: int = 0
    """Of those, rows that are not there."""
    orphans: int = 0
    """Rows that ought not to be there."""
    different: int = 0
    """Rows with other counts than they ought to have."""
    doubled: int = 0
    """Rows whose key another row has too."""
    padded: int = 0
    """Rows with padding in a UID of their key, as earlier versions stored them."""

    @property
    def faults(self) -> int:
        """Rows with which something is wrong."""
        return self.missing + self.orphans + self.different + self.doubled + self.padded

    @property
    def is_complete(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def count_by_series(rows: pa.Table) -> pa.Table:
    """The series of some rows, each once: the number of its rows, and the sum of their sequences.

    The two together tell one set of instances from another as surely as a list of them, at a hundredth of its size.

    Args:
        rows: of `instance` or `file_index`: at least the key of their series, and `sequence`.
    """
    groups = rows.group_by(list(SERIES.key)).aggregate([([], "count_all"), ("sequence", "sum")])
    return groups.rename_columns({"count_all": ROWS, "sequence_sum": SEQUENCES}).select(_COUNTS.names).cast(_COUNTS)


def add_up(parts: Iterable[pa.Table]) -> pa.Table:
    """Counts by series of several sets of rows as those of all of them."""
    whole = pa.concat_tables([_COUNTS.empty_table(), *parts])
    groups = whole.group_by(list(SERIES.key)).aggregate([(ROWS, "sum"), (SEQUENCES, "sum")])
    return groups.rename_columns({f"{name}_sum": name for name in (ROWS, SEQUENCES)})


def expect_series(counts: pa.Table) -> pa.Table:
    """Keys and counts that `series` ought to hold, from the counts of `instance` by series."""
    return counts.rename_columns({ROWS: "instanceCount"}).select([*SERIES.key, "instanceCount"])


def expect_studies(counts: pa.Table) -> pa.Table:
    """Keys and counts that `study` ought to hold, from the counts of `instance` by series."""
    groups = counts.group_by(list(STUDY.key)).aggregate([([], "count_all"), (ROWS, "sum")])
    return groups.rename_columns({"count_all": "seriesCount", f"{ROWS}_sum": "instanceCount"})


def compare_rows(expected: pa.Table, actual: pa.Table, key: tuple[str, ...]) -> Agreement:
    """How rows agree with what they ought to be; every column outside the key must be equal.

    Args:
        expected: each key once.
        actual: the table's rows, with the same columns.
        key: what identifies a row.
    """
    wanted, found = key_ids(expected, key), key_ids(actual, key)
    place = pc.index_in(found, wanted)
    known = pc.is_valid(place)
    stored, ought = actual.filter(known), expected.take(place.filter(known))
    differs = pc.is_null(stored[key[0]])
    for name in expected.column_names:
        if name not in key:
            differs = pc.or_(differs, pc.fill_null(pc.not_equal(stored[name], ought[name]), True))
    return Agreement(
        expected=len(expected),
        missing=_count_true(pc.invert(pc.is_in(wanted, value_set=found))),
        orphans=_count_true(pc.invert(known)),
        different=_count_true(differs),
        doubled=len(actual) - pc.count_distinct(found).as_py(),
        padded=_count_true(is_padded(actual)),
    )


def is_padded(rows: pa.Table) -> pa.ChunkedArray:
    """Return for each row, given its key and numbers alone, whether a text ends with padding."""
    padded = pa.chunked_array([pa.repeat(pa.scalar(False), len(rows))])
    for texts in rows.itercolumns():
        if pa.types.is_string(texts.type):
            padded = pc.or_(padded, pc.not_equal(texts, trim_padding(texts)))
    return padded


def compare_files(expected: pa.Table, actual: pa.Table) -> Agreement:
    """How the file index agrees with `instance`, both as `add_up` gives them; numbers are of files."""
    pairs = expected.join(actual, list(SERIES.key), join_type="full outer", right_suffix="_found")
    ought, found = (pc.fill_null(pairs[name], 0) for name in (ROWS, f"{ROWS}_found"))
    lack = pc.subtract(ought, found)
    same_count = pc.and_(pc.equal(lack, 0), pc.not_equal(pairs[SEQUENCES], pairs[f"{SEQUENCES}_found"]))
    return Agreement(
        expected=pc.sum(ought).as_py() or 0,
        missing=pc.sum(pc.max_element_wise(lack, 0)).as_py() or 0,
        orphans=pc.sum(pc.max_element_wise(pc.negate(lack), 0)).as_py() or 0,
        different=_count_true(same_count),
    )


def disagreeing_studies(expected: pa.Table, actual: pa.Table, study: str) -> pa.Array:
    """UIDs of the studies in which rows are not what they ought to be, in whatever way.

    Args:
        expected: all that must be equal.
        actual: the same columns.
        study: the one that has the study's UID.
    """
    sides = [rows.append_column(_SIDE, pa.repeat(side, len(rows))) for rows, side in ((expected, 1), (actual, -1))]
    both = pa.concat_tables(sides, promote_options="permissive")  # whether a column may be null is no difference
    sums = both.group_by(expected.column_names).aggregate([(_SIDE, "sum")])
    return pc.unique(sums.filter(pc.not_equal(sums[f"{_SIDE}_sum"], 0))[study])


def _count_true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0
