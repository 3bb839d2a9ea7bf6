import itertools
from dataclasses import replace

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import STUDY, Column
from dicom_assets.core.tables.study import build_studies
from dicom_assets_tests.core.tables.rows import build_instance_rows, instance, moment


def test_study_has_the_attributes_of_its_newest_instance_and_counts_all():
    rows = [
        instance(1, seriesInstanceUid="1.1", modality="MR", patientName="Old", lastModifiedTimestamp=moment(99)),
        instance(3, seriesInstanceUid="1.2", modality="CT", patientName="New"),
        instance(2, seriesInstanceUid="1.1", modality="MR", patientName="Middle"),
    ]
    for mixed in itertools.permutations(rows):
        table = build_studies(build_instance_rows(*mixed))
        assert table.schema.equals(STUDY.schema, check_metadata=True)
        (row,) = table.to_pylist()
        assert row["patientName"] == "New"
        assert row["lastModifiedTimestamp"] == moment(99)
        assert row["modalitiesInStudy"] == "CT\\MR"
        assert (row["seriesCount"], row["instanceCount"]) == (2, 3)


@pytest.mark.parametrize(
    ("modalities", "text"),
    [([None], None), ([""], None), (["US", None, ""], "US"), (["b", "a", "C", "a"], "C\\a\\b")],
)
def test_modalities_are_distinct_and_sorted_without_empty_ones(modalities, text):
    rows = build_instance_rows(*(instance(number, modality=value) for number, value in enumerate(modalities)))
    assert build_studies(rows)["modalitiesInStudy"].to_pylist() == [text]


def test_study_in_two_partitions_is_two():
    rows = build_instance_rows(instance(1), instance(2, partitionName="research"), instance(3))
    found = build_studies(rows).to_pylist()
    assert sorted((row["partitionName"], row["instanceCount"]) for row in found) == [
        ("Microsoft.Default", 2),
        ("research", 1),
    ]


def test_no_instances_are_no_studies():
    table = build_studies(build_instance_rows())
    assert table.schema.equals(STUDY.schema)
    assert len(table) == 0


def test_column_that_instances_do_not_have_yet_is_null():
    table = replace(STUDY, columns=(*STUDY.columns, Column("size", pa.float64(), "Size", "00101020")))
    assert build_studies(build_instance_rows(instance()), table)["size"].to_pylist() == [None]


def test_instance_without_readable_metadata_decides_nothing_but_counts_and_time():
    rows = [
        instance(1, patientId="A", modality="CT"),
        instance(2, patientId="B", modality="MR"),
        instance(3, metadataUnreadable=True, lastModifiedTimestamp=moment(99)),
    ]
    for mixed in itertools.permutations(rows):
        (row,) = build_studies(build_instance_rows(*mixed)).to_pylist()
        assert (row["patientId"], row["instanceCount"], row["lastModifiedTimestamp"]) == ("B", 3, moment(99))


def test_readable_instance_without_attributes_decides_that_there_are_none():
    rows = build_instance_rows(instance(1, patientId="A"), instance(2), instance(3, metadataUnreadable=True))
    assert build_studies(rows)["patientId"].to_pylist() == [None]


def test_attributes_are_null_where_no_instance_could_be_read():
    rows = build_instance_rows(*(instance(number, metadataUnreadable=True) for number in (1, 2)))
    (row,) = build_studies(rows).to_pylist()
    assert (row["patientId"], row["instanceCount"]) == (None, 2)


def test_instances_of_older_versions_have_no_mark_and_count_as_readable():
    rows = build_instance_rows(instance(1, patientId="A"), instance(2, patientId="B")).drop(["metadataUnreadable"])
    assert build_studies(rows)["patientId"].to_pylist() == ["B"]
