from datetime import timedelta
from functools import partial

import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets.core.tables.series import build_series
from dicom_assets.core.tables.study import build_studies
from dicom_assets.derive import derivation as derive
from dicom_assets.derive.derivation import AggregateDerivation, InstanceDerivation, build_derivation
from dicom_assets.derive.elements import read_attributes
from dicom_assets.derive.feed_window import FeedWindow, read_window
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import FixedRows
from dicom_assets_tests.core.tables.rows import START, build_entries, entry
from dicom_assets_tests.lakes.building import build_lake, instance_of, read, store


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path)


def hours(first: int, count: int = 1) -> Window:
    return Window(START + first * HOUR, START + (first + count) * HOUR)


def change(hour: int, sequence: int, name: str = "1", **columns) -> dict:
    """An entry of an hour about an instance of the study 1."""
    at = START + hour * HOUR + timedelta(seconds=sequence)
    return entry(sequence, sopInstanceUid=name, timestamp=at, windowStart=START + hour * HOUR, **columns)


def feed(lake: Lake, *rows: dict) -> None:
    store(lake, *rows, table=CHANGE_FEED)


def instances(lake: Lake, window: Window) -> tuple[dict[str, int], dict[str, int]]:
    """By instance the sequence of its key, and of its row."""
    desired = InstanceDerivation(FeedWindow(lake, window)).build()
    assert desired.rows.schema.equals(INSTANCE.schema)
    return tuple(
        {row["sopInstanceUid"]: row["sequence"] for row in rows.to_pylist()} for rows in (desired.keys, desired.rows)
    )


def test_window_holds_its_start_and_not_its_end(lake):
    feed(lake, *(change(hour, hour) for hour in range(4)))
    snapshot = lake.open(CHANGE_FEED)
    assert sorted(read_window(snapshot, hours(1, 2))["sequence"].to_pylist()) == [1, 2]
    assert read_window(snapshot, hours(1), ("windowStart",)).to_pylist() == [{"windowStart": START + HOUR}]


def test_nothing_is_wanted_before_there_is_a_feed(lake):
    of = FeedWindow(lake, hours(0))
    for derivation in (InstanceDerivation(of), AggregateDerivation(of, STUDY, build_studies)):
        desired = derivation.build()
        assert (len(desired.keys), len(desired.rows)) == (0, 0)
        assert derivation.is_current()


def test_hour_without_changes_wants_nothing(lake):
    feed(lake, change(0, 1))
    store(lake, instance_of("1"), table=INSTANCE)
    assert instances(lake, hours(1)) == ({}, {})
    desired = AggregateDerivation(FeedWindow(lake, hours(1)), STUDY, build_studies).build()
    assert (len(desired.keys), len(desired.rows)) == (0, 0)


def test_keys_that_changed_are_given_once(lake):
    feed(lake, change(0, 1, "1"), change(0, 2, "2"), change(0, 3, "2"), change(1, 4, "3"))
    of = FeedWindow(lake, hours(0))
    assert sorted(row["sopInstanceUid"] for row in of.changed_keys(INSTANCE.key).to_pylist()) == ["1", "2"]
    assert of.changed_keys(STUDY.key).to_pylist() == [{"partitionName": "Microsoft.Default", "studyInstanceUid": "1"}]


def test_newest_entry_of_any_hour_decides(lake):
    feed(lake, change(0, 1, "a"), change(0, 2, "b"), change(0, 3, "c"))
    feed(lake, change(5, 10, "a"), change(5, 11, "b", action="Delete"), change(5, 12, "other"))
    assert instances(lake, hours(0)) == ({"a": 10, "b": 11, "c": 3}, {"a": 10, "c": 3})
    assert instances(lake, hours(5)) == ({"a": 10, "b": 11, "other": 12}, {"a": 10, "other": 12})


def test_sequences_need_not_follow_the_hours(lake):
    feed(lake, change(0, 9, "a", action="Delete"), change(3, 2, "a"))
    for window in (hours(0), hours(3)):
        assert instances(lake, window) == ({"a": 9}, {})


def test_instance_that_was_deleted_when_it_was_read_is_not_wanted(lake):
    feed(lake, change(0, 1, "a", state="Deleted", metadata=None))
    assert instances(lake, hours(0)) == ({"a": 1}, {})


def test_same_uids_in_another_partition_are_left_alone(lake):
    feed(lake, change(0, 1, "a"), change(1, 2, "a", partitionName="research"))
    assert instances(lake, hours(0)) == ({"a": 1}, {"a": 1})


def test_values_that_cannot_be_converted_are_counted_anew_at_every_build(lake):
    feed(lake, change(0, 1, "a", metadata="[]"), change(0, 2, "b", metadata={"00200013": {"Value": ["x"]}}))
    derivation = InstanceDerivation(FeedWindow(lake, hours(0)))
    for _ in range(2):
        derivation.build()
        assert derivation.failures == {"metadata": 1, "instanceNumber": 1}


def test_new_entries_make_instances_stale(lake):
    feed(lake, change(0, 1))
    derivation = InstanceDerivation(FeedWindow(lake, hours(0)))
    derivation.build()
    assert derivation.is_current()
    feed(lake, change(1, 2))
    assert not derivation.is_current()


def test_changed_instances_make_aggregates_stale(lake):
    feed(lake, change(0, 1))
    derivation = AggregateDerivation(FeedWindow(lake, hours(0)), STUDY, build_studies)
    derivation.build()
    assert derivation.is_current()
    store(lake, instance_of("1"), table=INSTANCE)
    assert not derivation.is_current()


@pytest.mark.parametrize(
    ("table", "build"),
    [(SERIES, build_series), (STUDY, build_studies), (FILE_INDEX, partial(build_file_index, file_system=None))],
    ids=["series", "study", "file_index"],
)
def test_aggregates_are_of_all_instances_of_the_keys_that_changed(lake, table, build):
    rows = [
        instance_of("1", number, sopInstanceUid=str(number), seriesInstanceUid="1.1", filePath="a") for number in (1, 2)
    ]
    store(lake, *rows, instance_of("2", 3), table=INSTANCE)
    feed(lake, change(0, 1, "1"), change(0, 9, "gone", studyInstanceUid="3"), change(1, 3, "2.3", studyInstanceUid="2"))
    desired = AggregateDerivation(FeedWindow(lake, hours(0)), table, build).build()
    assert set(desired.keys["studyInstanceUid"].to_pylist()) == {"1", "3"}
    assert desired.rows["studyInstanceUid"].to_pylist() == ["1"]
    if "instanceCount" in table.schema.names:
        assert desired.rows["instanceCount"].to_pylist() == [2]


def feed_decoded(lake: Lake, *rows: dict) -> None:
    entries = build_entries(*rows)
    lake.write(CHANGE_FEED, FixedRows(entries, CHANGE_FEED, read_attributes(entries)))


def forbid_reading(monkeypatch) -> None:
    def read(entries, table):
        raise AssertionError("metadata was read")

    monkeypatch.setattr(derive, "read_attributes", read)


def test_metadata_that_was_decoded_before_is_not_read_again(lake, monkeypatch):
    bad = {"00200013": {"vr": "IS", "Value": ["x"]}}
    changes = [
        change(0, 1, "1", metadata={"00080060": {"vr": "CS", "Value": ["CT"]}}),
        change(0, 2, "2", metadata=bad),
        change(0, 3, "1", action="Delete", metadata=None),
        change(0, 4, "3", metadata={"00080060": {"vr": "CS", "Value": ["MR"]}}),
    ]
    feed_decoded(lake, *changes)
    forbid_reading(monkeypatch)
    derivation = InstanceDerivation(FeedWindow(lake, hours(0)))
    rows = {row["sopInstanceUid"]: row for row in derivation.build().rows.to_pylist()}
    assert {name: row["modality"] for name, row in rows.items()} == {"2": None, "3": "MR"}
    assert derivation.failures == {"instanceNumber": 1}


def test_of_entries_that_are_stored_already_the_new_ones_are_known(lake, monkeypatch):
    feed(lake, change(0, 1, "1"))
    known = {"00080060": {"vr": "CS", "Value": ["MR"]}}
    feed_decoded(lake, change(0, 1, "1"), change(0, 2, "2", metadata=known))
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        with pytest.raises(AssertionError, match="metadata was read"):
            instances(lake, hours(0))
    rows = InstanceDerivation(FeedWindow(lake, hours(0))).build().rows.to_pylist()
    assert {row["sopInstanceUid"]: row["modality"] for row in rows} == {"1": None, "2": "MR"}


def test_another_process_reads_the_metadata(lake, tmp_path):
    feed_decoded(lake, change(0, 1, "1", metadata={"00080060": {"vr": "CS", "Value": ["CT"]}}))
    rows = InstanceDerivation(FeedWindow(build_lake(tmp_path), hours(0))).build().rows
    assert rows["modality"].to_pylist() == ["CT"]


# In parts


def feed_of_studies(lake: Lake, studies: int, instances: int) -> None:
    """An hour with instances of one study after the other."""
    rows = [
        change(0, study * instances + number, f"{study}.{number}", studyInstanceUid=str(study))
        for study in range(studies)
        for number in range(instances)
    ]
    lake.write(CHANGE_FEED, FixedRows(build_entries(*rows), CHANGE_FEED))


def test_hours_that_fit_are_one_part(lake):
    assert list(FeedWindow(lake, hours(0)).split(1)) == [FeedWindow(lake, hours(0))]
    feed_of_studies(lake, 3, 2)
    assert list(FeedWindow(lake, hours(0)).split(6)) == [FeedWindow(lake, hours(0))]


def test_parts_have_whole_studies_and_about_as_many_entries_as_asked_for(lake):
    feed_of_studies(lake, 5, 3)
    feed(lake, change(1, 99, studyInstanceUid="of another hour"))
    parts = FeedWindow(lake, hours(0)).split(4)
    assert [part.studies.to_pylist() for part in parts] == [["0", "1"], ["2", "3"], ["4"]]


@pytest.mark.parametrize("entries", [1, 4, 100])
def test_parts_make_the_same_tables_as_the_whole(lake, entries):
    feed_of_studies(lake, 5, 3)
    feed(lake, change(1, 20, "2.1", studyInstanceUid="2", action="Delete"))
    for table in (INSTANCE, STUDY):
        parts = FeedWindow(lake, hours(0)).split(entries)
        commits = sum(lake.write(table, build_derivation(table, part, None)).commits for part in parts)
        assert commits == {1: 5, 4: 3}.get(entries, 1)
    assert len(read(lake, INSTANCE)) == 14
    assert {row["studyInstanceUid"]: row["instanceCount"] for row in read(lake)} == dict.fromkeys("0134", 3) | {"2": 2}
