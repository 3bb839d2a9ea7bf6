import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import SERIES, STUDY
from dicom_assets.core.tables.comparison import (
    Agreement,
    add_up,
    compare_files,
    compare_rows,
    count_by_series,
    expect_series,
    expect_studies,
    find_disagreeing_studies,
)
from dicom_assets_tests.core.tables.rows import build_instance_rows, instance

A, B, C = instance(1), instance(2), instance(3, seriesInstanceUid="1.2")
D = instance(4, partitionName="other")
"""The same UIDs as those of A, but for its own: another series in another partition."""


def counts_of(*rows: dict) -> pa.Table:
    return count_by_series(build_instance_rows(*rows))


def listed(table: pa.Table) -> set[tuple]:
    return {tuple(row.values()) for row in table.to_pylist()}


def test_counts_of_several_files_are_those_of_all_their_rows():
    parts = [counts_of(A, C), counts_of(B, D), counts_of()]
    assert listed(add_up(parts)) == listed(counts_of(A, B, C, D))
    assert add_up([]).num_rows == 0


def test_expected_series_and_studies_count_their_instances():
    counts = counts_of(A, B, C, D)
    assert listed(expect_series(counts)) == {
        ("Microsoft.Default", "1", "1.1", 2),
        ("Microsoft.Default", "1", "1.2", 1),
        ("other", "1", "1.1", 1),
    }
    assert listed(expect_studies(counts)) == {("Microsoft.Default", "1", 2, 3), ("other", "1", 1, 1)}


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ((A, B, C), {}),
        ((A, C), {"different": 1}),
        ((A, B), {"missing": 1}),
        ((A, B, C, D), {"orphans": 1}),
        ((), {"missing": 2}),
    ],
)
def test_series_that_disagree_are_counted(stored, found):
    expected, actual = (expect_series(counts_of(*rows)) for rows in ((A, B, C), stored))
    agreement = compare_rows(expected, actual, SERIES.key)
    assert agreement == Agreement(expected=2, **found)
    assert agreement.is_complete == (not found)


def test_row_that_is_there_twice_is_doubled():
    rows = expect_series(counts_of(A, C))
    agreement = compare_rows(rows, pa.concat_tables([rows, rows.slice(0, 1)]), SERIES.key)
    assert agreement == Agreement(expected=2, doubled=1)
    assert not agreement.is_complete


def test_count_that_is_null_is_different():
    rows = expect_series(counts_of(A))
    unknown = rows.set_column(3, "instanceCount", pa.nulls(1, pa.int64()))
    assert compare_rows(rows, unknown, SERIES.key) == Agreement(expected=1, different=1)


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ((A, B, C), {}),
        ((A, C), {"missing": 1}),
        ((A, B), {"missing": 1}),
        ((A, B, B, C), {"orphans": 1}),
        ((A, B, C, D), {"orphans": 1}),
        ((A, instance(7), C), {"different": 1}),
        ((), {"missing": 3}),
    ],
)
def test_files_that_disagree_are_counted(stored, found):
    assert compare_files(counts_of(A, B, C), counts_of(*stored)) == Agreement(expected=3, **found)


OTHER = instance(9, studyInstanceUid="9", seriesInstanceUid="9.1")
"""An instance of another study, which always agrees."""


@pytest.mark.parametrize(
    ("stored", "studies"), [((A, B), []), ((A,), ["1"]), ((A, B, C), ["1"]), ((A, B, B), ["1"]), ((A, C), ["1"])]
)
def test_studies_that_disagree_are_named_once(stored, studies):
    expected, actual = (expect_series(counts_of(*rows, OTHER)) for rows in ((A, B), stored))
    assert find_disagreeing_studies(expected, actual, STUDY.study).to_pylist() == studies


def test_row_that_is_there_twice_makes_its_study_disagree():
    rows = build_instance_rows(A, OTHER)
    assert find_disagreeing_studies(rows, pa.concat_tables([rows, rows.slice(1)]), STUDY.study).to_pylist() == ["9"]
    nowhere = rows.slice(0, 0)
    assert find_disagreeing_studies(nowhere, nowhere, STUDY.study).to_pylist() == []


def test_agreements_add_up():
    both = Agreement(1, 2, 3, 4, 5) + Agreement(10, 20, 30, 40, 50)
    assert both == Agreement(11, 22, 33, 44, 55)
    assert both.faults == 22 + 33 + 44 + 55
