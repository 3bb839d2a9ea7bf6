import itertools

from dicom_assets.core.columns.schema import SERIES
from dicom_assets.core.tables.series import build_series
from dicom_assets_tests.core.tables.rows import build_instance_rows, instance, moment


def test_series_has_the_attributes_of_its_newest_instance_and_counts_all():
    rows = [
        instance(1, modality="CT", seriesDescription="old", lastModifiedTimestamp=moment(99)),
        instance(3, modality="MR", seriesDescription=None),
        instance(2, modality="US", seriesDescription="middle"),
    ]
    for mixed in itertools.permutations(rows):
        table = build_series(build_instance_rows(*mixed))
        assert table.schema.equals(SERIES.schema, check_metadata=True)
        (row,) = table.to_pylist()
        assert row["modality"] == "MR"
        assert row["seriesDescription"] is None
        assert row["lastModifiedTimestamp"] == moment(99)
        assert row["instanceCount"] == 3


def test_series_of_other_studies_and_partitions_are_others():
    rows = build_instance_rows(
        instance(1), instance(2, studyInstanceUid="2"), instance(3, partitionName="research"), instance(4)
    )
    found = build_series(rows).to_pylist()
    assert sorted((row["partitionName"], row["studyInstanceUid"], row["instanceCount"]) for row in found) == [
        ("Microsoft.Default", "1", 2),
        ("Microsoft.Default", "2", 1),
        ("research", "1", 1),
    ]
