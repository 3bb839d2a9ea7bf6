"""The net change of a table between two versions, and what is said where it cannot be had any more."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY
from dicom_assets.core.errors import CursorError, LakeUnavailableError, VersionGoneError
from dicom_assets.lake import table_changes
from dicom_assets.lake.files import data_file, parquet
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table_changes import BEGINNING, open_changes
from dicom_assets_tests.core.tables.rows import entry
from dicom_assets_tests.lakes.building import Wanted, build_lake, instance_of, store, study


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path)


def delta(lake: Lake) -> DeltaTable:
    return DeltaTable(lake.uri(STUDY))


def found(lake: Lake, since, until=None, table=STUDY) -> list[tuple]:
    """What became of which study."""
    rows = pa.table(open_changes(lake, table, since, until)).to_pylist()
    return sorted((row["_change_type"], row["studyInstanceUid"]) for row in rows)


def fill(lake: Lake) -> None:
    """Version 1 has three studies; 2 changes one, 3 takes one out, 4 adds one."""
    store(lake, study("1.1"), study("1.2"), study("1.3"))
    store(lake, study("1.1", patientSex="F"))
    lake.write(STUDY, Wanted([], gone=[study("1.2")]))
    store(lake, study("1.4"))


def test_changes_are_the_net_of_all_commits_between(lake):
    fill(lake)
    assert found(lake, 1) == [("delete", "1.2"), ("insert", "1.4"), ("update_postimage", "1.1")]
    assert found(lake, 1, 2) == [("update_postimage", "1.1")]
    assert found(lake, 3, 3) == []
    store(lake, study("1.1"))
    assert found(lake, 1, 5) == [("delete", "1.2"), ("insert", "1.4")]


def test_deleted_row_comes_as_it_was_and_says_where_the_changes_lead_to(lake):
    store(lake, study("1.1", patientSex="F"))
    lake.write(STUDY, Wanted([], gone=[study("1.1")]))
    changes = open_changes(lake, STUDY, 1)
    (row,) = pa.table(changes).to_pylist()
    assert (row["patientSex"], row["_change_type"], row["_commit_version"]) == ("F", "delete", 2)
    assert (changes.since, changes.version) == (1, 2)


@pytest.mark.parametrize("since", [None, 0])
def test_beginning_gives_all_rows_as_inserts(lake, since):
    fill(lake)
    assert found(lake, since) == [("insert", "1.1"), ("insert", "1.3"), ("insert", "1.4")]
    assert open_changes(lake, STUDY, None).since == BEGINNING


def test_only_files_that_differ_are_read(lake):
    for number in range(5):
        store(lake, study(f"1.{number}"))
    store(lake, study("1.3", patientSex="F"))
    assert open_changes(lake, STUDY, 5).files_read == 2


def test_compaction_yields_no_changes(lake, monkeypatch):
    fill(lake)
    store(lake, study("1.5"))
    delta(lake).optimize.compact()
    changes = open_changes(lake, STUDY, 5)
    assert changes.files_read > 2
    assert pa.table(changes).num_rows == 0
    monkeypatch.setattr(data_file, "JOINED_FILES", 2)
    store(lake, study("1.6"))
    assert found(lake, 5) == [("insert", "1.6")]


def test_column_that_was_added_between_changes_only_the_rows_that_have_a_value(lake):
    fill(lake)
    DeltaTable(lake.uri(STUDY)).alter.add_columns([_field("kvp")])
    assert found(lake, 4) == []
    assert "kvp" in open_changes(lake, STUDY, 4).schema.names


def _field(name: str):
    from deltalake import Field
    from deltalake.schema import PrimitiveType

    return Field(name, PrimitiveType("double"))


@pytest.mark.parametrize(("part_bytes", "parts"), [(1, {7}), (6000, {2, 3, 4, 5, 6}), (2**30, {1})])
def test_parts_of_any_size_give_the_same(lake, monkeypatch, part_bytes, parts):
    rows = [instance_of(f"1.{number % 7}", number, sopInstanceUid=f"1.{number}") for number in range(40)]
    store(lake, *rows, table=INSTANCE)
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 5)
    store(lake, *(row | {"modality": "CT", "sequence": 100} for row in rows[::3]), table=INSTANCE)
    lake.write(INSTANCE, Wanted([], gone=[row | {"sequence": 200} for row in rows[1::4]], table=INSTANCE))
    monkeypatch.setattr(table_changes, "PART_BYTES", part_bytes)
    changes = open_changes(lake, INSTANCE, 1)
    assert len(list(changes._parts())) in parts  # a study is not parted
    kinds = [row["_change_type"] for row in pa.table(changes).to_pylist()]
    assert (kinds.count("delete"), kinds.count("update_postimage"), kinds.count("insert")) == (10, 11, 0)


def test_parts_of_the_feed_are_cut_by_sequence(lake, monkeypatch):
    store(lake, *(entry(number) for number in range(1, 21)), table=CHANGE_FEED)
    store(
        lake, *(entry(number, state="Replaced", ingestedAt=datetime.now(UTC)) for number in (3, 17)), table=CHANGE_FEED
    )
    monkeypatch.setattr(table_changes, "PART_BYTES", 1)
    rows = pa.table(open_changes(lake, CHANGE_FEED, 1)).to_pylist()
    assert [(row["sequence"], row["_change_type"]) for row in rows] == [
        (3, "update_postimage"),
        (17, "update_postimage"),
    ]


def test_changes_since_a_time_are_those_since_the_version_that_was_the_newest_then(lake):
    store(lake, study("1.1"))
    store(lake, study("1.2"))
    store(lake, study("1.3"))
    log = Path(lake.uri(STUDY)) / "_delta_log"
    for version in range(4):
        at = datetime(2026, 3, 1, version, tzinfo=UTC).timestamp()
        os.utime(log / f"{version:020}.json", (at, at))
    assert found(lake, datetime(2026, 3, 1, 1, 30, tzinfo=UTC)) == [("insert", "1.2"), ("insert", "1.3")]
    assert found(lake, datetime(2026, 3, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, 2, tzinfo=UTC)) == [("insert", "1.2")]
    assert found(lake, datetime(2025, 1, 1, tzinfo=UTC), 1) == [("insert", "1.1")]
    assert found(lake, datetime(2030, 1, 1, tzinfo=UTC)) == []
    with pytest.raises(VersionGoneError, match="created later than the time"):
        found(lake, None, datetime(2025, 1, 1, tzinfo=UTC))


def vacuum(lake: Lake) -> None:
    delta(lake).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


def test_vacuumed_version_says_to_load_anew_and_from_which_version_on_changes_are_there(lake):
    fill(lake)
    vacuum(lake)
    with pytest.raises(VersionGoneError, match=r"vacuumed .* from version 3 on\. Load the table anew"):
        open_changes(lake, STUDY, 1)
    assert found(lake, 3) == [("insert", "1.4")]
    assert len(found(lake, None)) == 3


def test_vacuumed_until_says_so(lake):
    fill(lake)
    vacuum(lake)
    with pytest.raises(VersionGoneError, match=r"Version 1 of study cannot be read any more.*until a newer version"):
        open_changes(lake, STUDY, None, 1)


def test_cleaned_log_says_to_load_anew_and_which_version_is_the_first(lake):
    fill(lake)
    delta(lake).create_checkpoint()
    store(lake, study("1.5"))
    for version in range(4):
        (Path(lake.uri(STUDY)) / "_delta_log" / f"{version:020}.json").unlink()
    with pytest.raises(VersionGoneError, match=r"first one that can is 4\. Load the table anew"):
        open_changes(lake, STUDY, 2)
    with pytest.raises(VersionGoneError, match=r"begins with version 4.*Load the table anew"):
        open_changes(lake, STUDY, datetime.now(UTC) - timedelta(days=1))
    assert found(lake, 4) == [("insert", "1.5")]
    assert len(found(lake, 0)) == 4


def test_versions_that_are_not_there_yet_are_told(lake):
    fill(lake)
    with pytest.raises(VersionGoneError, match=r"no version 9 of study yet: the newest is 4.*created anew"):
        open_changes(lake, STUDY, 9)
    with pytest.raises(VersionGoneError, match=r"Version 3 of study, since which .* is newer than version 2"):
        open_changes(lake, STUDY, 3, 2)


def test_table_that_was_created_anew_is_told_by_its_id(lake):
    store(lake, study("1.1"))
    with pytest.raises(CursorError, match="created anew"):
        open_changes(lake, STUDY, 1, table_id="another")
    assert open_changes(lake, STUDY, 1, table_id=open_changes(lake, STUDY, None).table_id).version == 1


def test_missing_table_says_what_to_do(lake):
    with pytest.raises(LakeUnavailableError, match=r"Materialise the asset study.*DICOM_STUDY_TABLE_PATH"):
        open_changes(lake, STUDY, None)


def test_changes_can_be_read_again_and_by_whoever_takes_arrow_streams(lake):
    polars = pytest.importorskip("polars")
    fill(lake)
    changes = open_changes(lake, STUDY, 1)
    assert polars.DataFrame(changes).height == changes.to_reader().read_all().num_rows == 3
    assert pa.table(changes).schema == changes.schema


def test_commit_without_files_changes_nothing(lake):
    fill(lake)
    delta(lake).alter.set_table_properties({"delta.appendOnly": "false"}, commit_properties=CommitProperties())
    assert found(lake, 4) == []
