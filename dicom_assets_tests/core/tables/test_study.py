import itertools

import pytest

from dicom_assets.core.columns.schema import STUDY
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
