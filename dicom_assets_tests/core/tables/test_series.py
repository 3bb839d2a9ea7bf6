import itertools
from dataclasses import replace

import pyarrow as pa

from dicom_assets.core.columns.schema import SERIES, Column
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


def test_no_instances_are_no_series():
    assert build_series(build_instance_rows()).schema.equals(SERIES.schema)
    assert len(build_series(build_instance_rows())) == 0


def test_column_of_the_users_comes_from_the_newest_instance():
    dose = Column("dose", pa.float64(), "Dose", "00180060")
    table = replace(SERIES, columns=(*SERIES.columns, dose))
    rows = build_instance_rows(instance(2), instance(1)).append_column("dose", pa.array([2.0, 1.0]))
    assert build_series(rows, table)["dose"].to_pylist() == [2.0]


def test_column_that_instances_do_not_have_yet_is_null():
    table = replace(SERIES, columns=(*SERIES.columns, Column("dose", pa.float64(), "Dose", "00180060")))
    assert build_series(build_instance_rows(instance()), table)["dose"].to_pylist() == [None]


def test_instance_without_readable_metadata_decides_nothing_but_counts_and_time():
    rows = [
        instance(1, patientId="A", modality="CT"),
        instance(2, patientId="B", modality="MR"),
        instance(3, metadataUnreadable=True, lastModifiedTimestamp=moment(99)),
    ]
    for mixed in itertools.permutations(rows):
        (row,) = build_series(build_instance_rows(*mixed)).to_pylist()
        assert (row["patientId"], row["instanceCount"], row["lastModifiedTimestamp"]) == ("B", 3, moment(99))


def test_readable_instance_without_attributes_decides_that_there_are_none():
    rows = build_instance_rows(instance(1, patientId="A"), instance(2), instance(3, metadataUnreadable=True))
    assert build_series(rows)["patientId"].to_pylist() == [None]


def test_attributes_are_null_where_no_instance_could_be_read():
    rows = build_instance_rows(*(instance(number, metadataUnreadable=True) for number in (1, 2)))
    (row,) = build_series(rows).to_pylist()
    assert (row["patientId"], row["instanceCount"]) == (None, 2)


def test_instances_of_older_versions_have_no_mark_and_count_as_readable():
    rows = build_instance_rows(instance(1, patientId="A"), instance(2, patientId="B")).drop(["metadataUnreadable"])
    assert build_series(rows)["patientId"].to_pylist() == ["B"]
