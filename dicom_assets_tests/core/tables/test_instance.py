import itertools
from collections import Counter

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import INSTANCE, Column, Grain, Table, extend_tables
from dicom_assets.core.tables.instance import build_instances, find_newest_entries, is_live
from dicom_assets.derive.elements import read_attributes
from dicom_assets_tests.core.tables.rows import build_entries, entry, moment


def build(entries: pa.Table, table: Table = INSTANCE) -> tuple[pa.Table, Counter]:
    return build_instances(entries, read_attributes(entries, table), table)


@pytest.mark.parametrize(
    ("action", "state", "live"),
    [
        ("Create", "Current", True),
        ("Update", "Current", True),
        ("create", "REPLACED", True),
        ("Create", "Replaced", True),
        ("Create", "Deleted", False),
        ("Update", "deleted", False),
        ("Delete", "Deleted", False),
        ("Delete", "Replaced", False),
        ("DELETE", "Current", False),
    ],
)
def test_instance_lives_unless_it_was_deleted_then_or_later(action, state, live):
    assert is_live(build_entries(entry(action=action, state=state))).to_pylist() == [live]


def test_greatest_sequence_decides_in_any_order_of_reading():
    rows = [entry(1), entry(3, action="Delete", ingestedAt=moment(1)), entry(2, ingestedAt=moment(99))]
    for mixed in itertools.permutations(rows):
        assert find_newest_entries(build_entries(*mixed))["sequence"].to_pylist() == [3]


def test_of_equal_sequences_the_later_read_decides():
    rows = [entry(1, ingestedAt=moment(5), filePath="old"), entry(1, ingestedAt=moment(6), filePath="new")]
    for mixed in itertools.permutations(rows):
        assert find_newest_entries(build_entries(*mixed))["filePath"].to_pylist() == ["new"]


def test_same_uids_in_two_partitions_are_two_instances():
    rows = build_entries(entry(1), entry(2, partitionName="research"))
    assert find_newest_entries(rows)["sequence"].to_pylist() == [1, 2]


def test_entry_becomes_a_row_with_its_attributes():
    metadata = {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00080020": {"vr": "DA", "Value": ["20260301"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00280010": {"vr": "US", "Value": [512]},
    }
    table, failures = build(build_entries(entry(5, metadata=metadata, filePath="a.dcm")))
    assert table.schema.equals(INSTANCE.schema, check_metadata=True)
    (row,) = table.to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": "1",
        "seriesInstanceUid": "1.1",
        "sopInstanceUid": "1.1.1",
        "sequence": 5,
        "lastModifiedTimestamp": moment(5),
        "studyDate": moment(0).date(),
        "patientName": "Doe^Jane",
        "modality": "CT",
        "rows": 512,
        "filePath": "a.dcm",
    }
    assert not failures


def test_rows_keep_the_entries_order_and_no_value_drops_one():
    texts = ["[]", None, '{"00200013":{"Value":["x"]}}', "{}"]
    entries = build_entries(*(entry(9 - number, metadata=text) for number, text in enumerate(texts)))
    table, failures = build(entries)
    assert table["sequence"].to_pylist() == [9, 8, 7, 6]
    assert failures == {"metadata": 2, "instanceNumber": 1}
    assert table["metadataUnreadable"].to_pylist() == [True, True, None, None]


def test_no_entries_are_no_rows():
    table, failures = build(build_entries())
    assert table.schema.equals(INSTANCE.schema)
    assert (len(table), failures.total()) == (0, 0)


def test_columns_of_the_users_are_filled():
    kvp = Column("kvp", pa.float64(), "Peak kilovoltage", "00180060")
    extended = extend_tables([(kvp, Grain.INSTANCE)])[1]
    table, _ = build(build_entries(entry(metadata={"00180060": {"Value": ["120.5"]}})), extended)
    assert table["kvp"].to_pylist() == [120.5]
