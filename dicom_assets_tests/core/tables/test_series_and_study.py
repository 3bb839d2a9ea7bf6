"""What series and studies have in common: both are made from the instances that were read."""

import itertools
from dataclasses import replace

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import SERIES, STUDY, Column
from dicom_assets.core.tables.series import build_series
from dicom_assets.core.tables.study import build_studies
from dicom_assets_tests.core.tables.rows import build_instance_rows, instance, moment

both = pytest.mark.parametrize(
    ("build", "table"), [(build_series, SERIES), (build_studies, STUDY)], ids=["series", "study"]
)


@both
def test_no_instances_are_no_rows(build, table):
    rows = build(build_instance_rows())
    assert rows.schema.equals(table.schema)
    assert len(rows) == 0


@both
def test_column_of_the_users_comes_from_the_newest_instance(build, table):
    table = replace(table, columns=(*table.columns, Column("dose", pa.float64(), "Dose", "00180060")))
    rows = build_instance_rows(instance(2), instance(1)).append_column("dose", pa.array([2.0, 1.0]))
    assert build(rows, table)["dose"].to_pylist() == [2.0]


@both
def test_column_that_instances_do_not_have_yet_is_null(build, table):
    table = replace(table, columns=(*table.columns, Column("dose", pa.float64(), "Dose", "00180060")))
    assert build(build_instance_rows(instance()), table)["dose"].to_pylist() == [None]


@both
def test_instance_without_readable_metadata_decides_nothing_but_counts_and_time(build, table):
    rows = [
        instance(1, patientId="A", modality="CT"),
        instance(2, patientId="B", modality="MR"),
        instance(3, metadataUnreadable=True, lastModifiedTimestamp=moment(99)),
    ]
    for mixed in itertools.permutations(rows):
        (row,) = build(build_instance_rows(*mixed)).to_pylist()
        assert (row["patientId"], row["instanceCount"], row["lastModifiedTimestamp"]) == ("B", 3, moment(99))


@both
def test_readable_instance_without_attributes_decides_that_there_are_none(build, table):
    rows = build_instance_rows(instance(1, patientId="A"), instance(2), instance(3, metadataUnreadable=True))
    assert build(rows)["patientId"].to_pylist() == [None]


@both
def test_attributes_are_null_where_no_instance_could_be_read(build, table):
    rows = build_instance_rows(*(instance(number, metadataUnreadable=True) for number in (1, 2)))
    (row,) = build(rows).to_pylist()
    assert (row["patientId"], row["instanceCount"]) == (None, 2)


@both
def test_instances_of_older_versions_have_no_mark_and_count_as_readable(build, table):
    rows = build_instance_rows(instance(1, patientId="A"), instance(2, patientId="B")).drop(["metadataUnreadable"])
    assert build(rows)["patientId"].to_pylist() == ["B"]
