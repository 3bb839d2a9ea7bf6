"""Comparison of tables with their source tables, in numbers that contain nothing about a patient.

For `file_index`, counts by series replace the list of instances: the number of a series' rows together with the sum of
their sequences distinguishes two sets of instances as surely as a list, at a hundredth of its size.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.elements import trim_padding
from dicom_assets.core.columns.schema import SERIES, STUDY
from dicom_assets.core.tables.merge import key_ids

ROWS, SEQUENCES = "rows", "sequences"
_SIDE = "_side"
_COUNTS = pa.schema([*(SERIES.schema.field(name) for name in SERIES.key), (ROWS, pa.int64()), (SEQUENCES, pa.int64())])


@dataclass(frozen=True)
class Agreement:
    """Result of comparing a table's rows with the expected rows."""

    expected: int = 0
    """Number of expected rows."""
    missing: int = 0
    """Number of expected rows that the table lacks."""
    orphans: int = 0
    """Number of rows in the table that are not expected."""
    different: int = 0
    """Number of rows whose values differ from the expected row."""
    doubled: int = 0
    """Number of rows that repeat the key of another row."""
    padded: int = 0
    """Number of rows with padding in a UID of the key, as earlier versions stored them."""

    @property
    def faults(self) -> int:
        """Number of all faults, of every kind."""
        return self.missing + self.orphans + self.different + self.doubled + self.padded

    @property
    def is_complete(self) -> bool:
        """True if there are no faults."""
        return not self.faults

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def count_by_series(rows: pa.Table) -> pa.Table:
    """Count the rows of every series, and sum their sequences.

    Args:
        rows: rows of `instance` or `file_index`, with at least the key of `series`, and `sequence`.

    Returns:
        One row per series: its key, `rows` and `sequences`.
    """
    groups = rows.group_by(list(SERIES.key)).aggregate([([], "count_all"), ("sequence", "sum")])
    return groups.rename_columns({"count_all": ROWS, "sequence_sum": SEQUENCES}).select(_COUNTS.names).cast(_COUNTS)


def add_up(parts: Iterable[pa.Table]) -> pa.Table:
    """Add up counts by series, as `count_by_series` gives them, into the counts of all parts together."""
    whole = pa.concat_tables([_COUNTS.empty_table(), *parts])
    groups = whole.group_by(list(SERIES.key)).aggregate([(ROWS, "sum"), (SEQUENCES, "sum")])
    return groups.rename_columns({f"{name}_sum": name for name in (ROWS, SEQUENCES)})


def expect_series(counts: pa.Table) -> pa.Table:
    """Return the keys and counts that `series` must have, derived from the counts of `instance` by series."""
    return counts.rename_columns({ROWS: "instanceCount"}).select([*SERIES.key, "instanceCount"])


def expect_studies(counts: pa.Table) -> pa.Table:
    """Return the keys and counts that `study` must have, derived from the counts of `instance` by series."""
    groups = counts.group_by(list(STUDY.key)).aggregate([([], "count_all"), (ROWS, "sum")])
    return groups.rename_columns({"count_all": "seriesCount", f"{ROWS}_sum": "instanceCount"})


def compare_rows(expected: pa.Table, actual: pa.Table, key: tuple[str, ...]) -> Agreement:
    """Compare a table's rows with the expected rows; every column outside the key must be equal.

    Args:
        expected: expected rows, each key once.
        actual: rows of the table, with the columns of `expected`.
        key: names of the columns that identify a row.
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
    """Return for each row whether one of its texts ends with padding.

    Args:
        rows: key columns and numbers only; every text column counts as part of the key.
    """
    padded = pa.chunked_array([pa.repeat(pa.scalar(False), len(rows))])
    for texts in rows.itercolumns():
        if pa.types.is_string(texts.type):
            padded = pc.or_(padded, pc.not_equal(texts, trim_padding(texts)))
    return padded


def compare_files(expected: pa.Table, actual: pa.Table) -> Agreement:
    """Compare the file index with `instance`.

    The resulting numbers count files, except `different`: it counts the series that have the expected number of files,
    but not the expected sequences.

    Args:
        expected: counts by series of the instances that have a file, as `add_up` gives them.
        actual: counts by series of `file_index`, as `add_up` gives them.
    """
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


def find_disagreeing_studies(expected: pa.Table, actual: pa.Table, study: str) -> pa.Array:
    """Return the UIDs of the studies in which actual and expected rows differ in any way.

    Args:
        expected: expected rows, with every column that must be equal.
        actual: actual rows, with the columns of `expected`.
        study: name of the column with the Study Instance UID.
    """
    sides = [rows.append_column(_SIDE, pa.repeat(side, len(rows))) for rows, side in ((expected, 1), (actual, -1))]
    both = pa.concat_tables(sides, promote_options="permissive")  # nullability does not count as a difference
    sums = both.group_by(expected.column_names).aggregate([(_SIDE, "sum")])
    return pc.unique(sums.filter(pc.not_equal(sums[f"{_SIDE}_sum"], 0))[study])


def _count_true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0
