import json
import shutil
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import deltalake
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, SERIES, STUDY, TABLES, Column
from dicom_assets.core.errors import CommitConflictError, ForeignTableError, LakeUnavailableError
from dicom_assets.lake.files import data_file, parquet
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table import delta, study_index, version_cache
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import commit_name
from dicom_assets.lake.table.plan import find_files_possibly_holding
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.writing import FixedRows
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.core.tables.rows import build_rows, entry, moment
from dicom_assets_tests.lakes.building import (
    FarStorage,
    Wanted,
    build_lake,
    data_files,
    instance_of,
    live_files,
    read,
    store,
    study,
)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(delta.time, "sleep", lambda seconds: None)


def log_text(lake: Lake, table=STUDY) -> str:
    return "\n".join(file.read_text() for file in sorted((Path(lake.uri(table)) / "_delta_log").glob("*.json")))


def by_study(rows) -> dict[str, str]:
    return {row["studyInstanceUid"]: row.get("patientSex") for row in rows}


# Tables


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_table_is_created_with_comments_not_null_description_and_retention(tmp_path, table):
    lake = build_lake(tmp_path, retention_hours=48)
    assert lake.open(table) is None
    assert lake.version(table) is None
    snapshot = lake.open_or_create(table)
    assert snapshot.version == 0 == lake.version(table)
    stored = DeltaTable(tmp_path / table.name)
    assert pa.schema(stored.schema().to_arrow()).equals(table.schema, check_metadata=True)
    assert stored.metadata().name == table.name
    assert stored.metadata().description == f"One row is {table.row}."
    assert stored.metadata().configuration == {
        "delta.deletedFileRetentionDuration": "interval 48 hours",
        "delta.logRetentionDuration": "interval 48 hours",
        "delta.checkpointInterval": "10",
        "dicomAssets.trimmed": "true",
        "delta.dataSkippingStatsColumns": ",".join(
            column.name
            for column in table.columns
            if column.type_name not in ("string", "boolean") or column.name.endswith("InstanceUid")
        ),
    }
    assert (snapshot.row_count, snapshot.size_bytes, snapshot.files) == (0, 0, [])
    assert snapshot.read_table().equals(table.schema.empty_table())


def test_opening_again_changes_nothing(lake):
    assert lake.open_or_create(STUDY).version == lake.open_or_create(STUDY).version == 0


def test_protocol_stays_the_one_that_every_reader_knows(lake):
    for uid in "123":
        store(lake, study(uid))
    protocol = lake.open(STUDY).connect().protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


# Writes


def test_rows_are_inserted_updated_and_deleted_and_counted(lake, tmp_path):
    first = store(lake, study("1", patientSex="F"), study("2", patientSex="M"), study("3"))
    assert (first.inserted, first.updated, first.deleted, first.commits, first.conflicts) == (3, 0, 0, 1, 0)
    assert (first.version, first.row_count, first.file_count) == (1, 3, 1)
    assert (
        first.bytes_written
        == first.size_bytes
        == sum(file.stat().st_size for file in (tmp_path / "study").glob("*.parquet"))
    )
    second = lake.write(
        STUDY, Wanted([study("1", patientSex="O"), study("2", patientSex="M"), study("4")], [study("3")])
    )
    assert (second.inserted, second.updated, second.deleted, second.commits) == (1, 1, 1, 1)
    assert (second.version, second.row_count, second.file_count) == (2, 3, 2)
    assert by_study(read(lake)) == {"1": "O", "2": "M", "4": None}
    assert second.size_bytes == lake.open(STUDY).size_bytes == second.bytes_written


def test_nothing_is_committed_where_nothing_differs(lake):
    store(lake, study("1", patientSex="F"))
    again = lake.write(STUDY, Wanted([study("1", patientSex="F")], [study("9")]))
    assert (again.version, again.commits, again.inserted, again.updated, again.deleted) == (1, 0, 0, 0, 0)
    assert (again.row_count, again.bytes_written) == (1, 0)
    assert data_files(lake) == live_files(lake)


def test_no_rows_create_the_table_and_commit_nothing(lake):
    assert store(lake).version == 0
    assert read(lake) == []


def test_files_of_untouched_studies_keep_their_names(lake):
    for uid in "123":
        store(lake, study(uid))
    before = live_files(lake)
    store(lake, study("2", patientSex="F"))
    kept = before & live_files(lake)
    assert len(kept) == 2
    assert by_study(read(lake)) == {"1": None, "2": "F", "3": None}


def test_file_whose_rows_are_all_deleted_is_gone(lake):
    store(lake, study("1"))
    store(lake, study("2"))
    gone = lake.write(STUDY, Wanted([], [study("1")]))
    assert (gone.deleted, gone.row_count, gone.file_count, gone.bytes_written) == (1, 1, 1, 0)


def test_rows_are_split_into_files(lake, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 2)
    assert store(lake, *(study(str(number)) for number in range(5))).file_count == 3
    changed = store(lake, study("0", patientSex="F"), study("9"))
    assert (changed.file_count, changed.updated, changed.inserted, changed.row_count) == (4, 1, 1, 6)
    assert len(read(lake)) == 6


def test_rows_in_other_types_and_orders_are_stored_in_the_tables(lake):
    rows = build_rows([study("1", patientSex="F")], STUDY).select(
        ["patientSex", "instanceCount", "seriesCount", "lastModifiedTimestamp", "studyInstanceUid", "partitionName"]
    )
    rows = rows.set_column(4, "studyInstanceUid", rows["studyInstanceUid"].cast(pa.large_string()))
    for _ in range(2):
        assert lake.write(STUDY, FixedRows(rows, STUDY)).version == 1
    assert by_study(read(lake)) == {"1": "F"}


def test_row_that_was_read_earlier_does_not_overwrite_a_later_one(lake):
    for sequence, kept in [(5, 5), (4, 5), (6, 6)]:
        store(lake, instance_of("1") | {"sequence": sequence}, table=INSTANCE)
        assert [row["sequence"] for row in read(lake, INSTANCE)] == [kept]


def test_change_feed_is_merged_by_sequence_and_keeps_when_unchanged_content_was_first_read(lake):
    store(lake, entry(1), entry(2), table=CHANGE_FEED)
    again = [entry(1, ingestedAt=moment(99)), entry(2, ingestedAt=moment(99), state="Replaced"), entry(3)]
    written = store(lake, *again, table=CHANGE_FEED)
    assert (written.inserted, written.updated) == (1, 1)
    assert [(row["sequence"], row["ingestedAt"]) for row in read(lake, CHANGE_FEED)] == [
        (1, moment(1)),
        (2, moment(99)),
        (3, moment(3)),
    ]


# Pruning


def test_only_files_of_the_hour_that_may_hold_its_sequences_are_read_for_it(lake, monkeypatch):
    for hour in range(3):
        store(lake, entry(3600 * hour), table=CHANGE_FEED)
    reads = []
    monkeypatch.setattr(
        Files, "read", lambda self, file, *given, read=Files.read, **named: reads.append(file.name)
        or read(self, file, *given, **named)
    )  # fmt: skip
    store(lake, entry(3601), table=CHANGE_FEED)
    assert reads == []
    store(lake, entry(3600, state="Replaced"), table=CHANGE_FEED)
    assert len(reads) == 1
    assert len(live_files(lake, CHANGE_FEED)) == 4


def test_statistics_in_the_log_are_right_and_hold_no_patient(lake):
    store(lake, study("1.2", patientName="ZZPATIENTZZ", patientId="ZZPATIENTZZ"), study("1.10", patientSex="F"))
    (action,) = pa.table(lake.open(STUDY).connect().get_add_actions(flatten=True)).to_pylist()
    assert (action["num_records"], action["null_count.studyDate"]) == (2, 2)
    assert "min.patientName" not in action
    assert (action["min.studyInstanceUid"], action["max.studyInstanceUid"]) == ("1.10", "1.2")
    assert action["min.lastModifiedTimestamp"] == action["max.lastModifiedTimestamp"] == moment(0)
    assert action["min.instanceCount"] == 1
    assert "ZZPATIENTZZ" not in log_text(lake)


def test_log_of_a_table_that_its_library_rewrote_holds_no_patient(lake):
    for uid in "12":
        store(lake, study(uid, patientName="ZZPATIENTZZ"))
    lake.open(STUDY).connect().optimize.compact()
    lake.open(STUDY).connect().update(updates={"patientSex": "'F'"})
    assert len(live_files(lake)) == 1
    assert "ZZPATIENTZZ" not in log_text(lake)


def test_file_without_statistics_is_read_all_the_same(lake):
    store(lake, entry(1), entry(2), table=CHANGE_FEED)
    log = Path(lake.uri(CHANGE_FEED)) / "_delta_log" / f"{1:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line.get("add", {}).pop("stats", None)
    log.write_text("\n".join(map(json.dumps, lines)))
    (file,) = lake.open(CHANGE_FEED).files
    assert file.may_hold("sequence", 10**6, 10**6)
    assert store(lake, entry(2, state="Replaced", ingestedAt=moment(9)), table=CHANGE_FEED).updated == 1
    assert [row["state"] for row in read(lake, CHANGE_FEED)] == ["Current", "Replaced"]


def rename_files(lake: Lake, names: list[str]) -> None:
    """As another engine may name them, in a commit without statistics."""
    lines = []
    for file, name in zip(lake.open(STUDY).files, names, strict=True):
        Path(lake.uri(STUDY), file.name).rename(Path(lake.uri(STUDY), name))
        told = {"partitionValues": {}, "size": file.size_bytes, "modificationTime": 0, "dataChange": False}
        lines += [{"remove": {"path": file.name, "dataChange": False}}, {"add": {"path": quote(name), **told}}]
    log = Path(lake.uri(STUDY), "_delta_log", f"{lake.version(STUDY) + 1:020}.json")
    log.write_text("\n".join(map(json.dumps, lines)))


def test_files_whose_names_the_log_encodes_are_read_replaced_and_kept(lake, tmp_path):
    for uid in "123":
        store(lake, study(uid))
    rename_files(lake, ["with blank.parquet", "c%20d.parquet", "größe#?.parquet"])
    lake = build_lake(tmp_path)
    assert {file.name for file in lake.open(STUDY).files} == {"with blank.parquet", "c%20d.parquet", "größe#?.parquet"}
    for uid in "12":
        assert store(lake, study(uid, patientSex="F")).updated == 1
    assert DeltaTable(lake.uri(STUDY)).to_pyarrow_table().num_rows == 3
    lake.retention_hours = 0
    assert maintain(lake, STUDY).after.live_files == 1
    assert data_files(lake) == live_files(lake)
    assert by_study(read(lake)) == {"1": "F", "2": "F", "3": None}


def test_rows_of_files_without_statistics_are_counted(lake, tmp_path):
    for uid in "123":
        store(lake, study(uid))
    rename_files(lake, ["a.parquet", "b.parquet", "c.parquet"])
    lake = build_lake(tmp_path)
    assert lake.open(STUDY).row_count == 3
    assert [file.rows for file in lake.open(STUDY).files] == [1, 1, 1]
    assert store(lake, study("4")).row_count == 4


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_does_not_have_leave_the_log_valid_and_are_found(lake, value):
    dose = Column("dose", pa.float64(), "Dose", "00181050")
    table = replace(STUDY, columns=(*STUDY.columns, dose))
    store(lake, study("1", dose=5.0), study("2", dose=value), table=table)
    store(lake, study("3", dose=7.0), table=table)
    for line in log_text(lake).splitlines():
        action = strict(line)
        if "add" in action:
            assert strict(action["add"]["stats"])["numRecords"] in (1, 2)
    found = DeltaTable(lake.uri(STUDY))
    assert pl.scan_delta(found).filter(pl.col("dose") == 5).collect().height == 1
    assert found.to_pyarrow_dataset().to_table(filter=ds.field("dose") == 5, use_threads=False).num_rows == 1
    query = QueryBuilder().register("study", found).execute("SELECT * FROM study WHERE dose > 4 AND dose < 6")
    assert pa.table(query).num_rows == 1


def test_value_of_another_type_in_a_file_is_told_nowhere(lake, tmp_path):
    store(lake, study("1", patientName="ZZPATIENTZZ"))
    (file,) = lake.open(STUDY).files
    path = Path(lake.uri(STUDY), file.name)
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("instanceCount")
    pq.write_table(rows.set_column(place, "instanceCount", pa.array(["ZZPATIENTZZ"])), path)
    with pytest.raises(ForeignTableError, match=file.name) as caught:
        read(build_lake(tmp_path))
    assert "ZZPATIENTZZ" not in "".join(traceback.format_exception(caught.value))


def test_studies_of_many_files_are_found_again_after_they_were_forgotten(lake, monkeypatch):
    monkeypatch.setattr(study_index, "LIMIT", 1)
    for uid in "1234":
        store(lake, study(uid))
    for uid in "1234":
        assert store(lake, study(uid, patientSex="F")).updated == 1
    assert by_study(read(lake)) == dict.fromkeys("1234", "F")


def test_desired_keys_without_a_row_in_the_table_read_no_file(lake):
    snapshot = lake.open_or_create(STUDY)
    assert find_files_possibly_holding(snapshot, Wanted([], []).desired.keys) == []
    assert isinstance(snapshot, Snapshot)


# Tables that others wrote


def test_table_that_was_compacted_by_its_library_works_on(lake):
    for number in range(4):
        store(lake, entry(number, metadata={"n": number}), table=CHANGE_FEED)
        store(lake, study(str(number)))
    for table in (CHANGE_FEED, STUDY):
        lake.open(table).connect().optimize.compact()
        assert len(live_files(lake, table)) == 1
    written = store(lake, entry(2, state="Replaced", ingestedAt=moment(9)), entry(9), table=CHANGE_FEED)
    assert (written.updated, written.inserted, written.row_count) == (1, 1, 5)
    changed = lake.write(STUDY, Wanted([study("1", patientSex="F")], [study("2")]))
    assert (changed.updated, changed.deleted, changed.row_count) == (1, 1, 3)
    assert by_study(read(lake)) == {"0": None, "1": "F", "3": None}


def test_table_that_was_merged_and_updated_by_its_library_works_on(lake):
    store(lake, study("1"), study("2"))
    table = lake.open(STUDY).connect()
    table.update(predicate="studyInstanceUid = '1'", updates={"patientSex": "'F'"})
    table.merge(
        build_rows([study("2", patientSex="M"), study("3")], STUDY),
        "s.studyInstanceUid = t.studyInstanceUid",
        source_alias="s",
        target_alias="t",
    ).when_matched_update_all().when_not_matched_insert_all().execute()
    assert by_study(read(lake)) == {"1": "F", "2": "M", "3": None}
    assert store(lake, study("1", patientSex="F"), study("2", patientSex="M"), study("3")).commits == 0
    changed = lake.write(STUDY, Wanted([study("1", patientSex="O"), study("4")], [study("2")]))
    assert (changed.inserted, changed.updated, changed.deleted) == (1, 1, 1)
    assert by_study(read(lake)) == {"1": "O", "3": None, "4": None}


def test_compaction_between_reading_and_committing_loses_no_row(lake, no_pause):
    for uid in "12":
        store(lake, study(uid))

    class Compacted(Wanted):
        def build(self):
            if not self.builds:
                lake.open(STUDY).connect().optimize.compact()
            return super().build()

    written = lake.write(STUDY, Compacted([study("1", patientSex="F"), study("3")]))
    assert (written.conflicts, written.updated, written.inserted, written.row_count) == (1, 1, 1, 3)
    assert by_study(read(lake)) == {"1": "F", "2": None, "3": None}


# Schemas that change


AGE = Column("patientAge", pa.string(), "Patient's age", "00101010")
WIDER = replace(STUDY, columns=(*STUDY.columns, AGE, Column("all", pa.list_(pa.string()), "All", "00081032")))


def test_table_of_an_older_schema_gains_the_new_columns(lake):
    store(lake, study("1"), study("2"))
    written = store(lake, study("2", patientAge="017Y", all=["a", None]), study("3"), table=WIDER)
    assert (written.updated, written.inserted) == (1, 1)
    schema = pa.schema(lake.open(WIDER).connect().schema().to_arrow())
    assert schema.names == WIDER.schema.names
    assert schema.field("patientAge").metadata == {b"comment": b"Patient's age (00101010)"}
    assert not schema.field("studyInstanceUid").nullable
    assert not schema.field("instanceCount").nullable
    found = {
        row["studyInstanceUid"]: (row["patientAge"], row["all"]) for row in lake.open(WIDER).read_table().to_pylist()
    }
    assert found == {"1": (None, None), "2": ("017Y", ["a", None]), "3": (None, None)}
    assert store(lake, study("2", patientAge="017Y", all=["a", None]), table=WIDER).commits == 0
    protocol = lake.open(WIDER).connect().protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


def test_column_that_is_no_longer_declared_is_kept(lake):
    store(lake, study("1", patientAge="017Y"), study("2", patientAge="018Y"), table=WIDER)
    store(lake, study("2", patientSex="F"), study("3"))
    found = {row["studyInstanceUid"]: row["patientAge"] for row in lake.open(STUDY).read_table().to_pylist()}
    assert found == {"1": "017Y", "2": None, "3": None}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": pa.int32()}, 'is of type string there, and int in the file now. .* set type = "string" again, or'),
        (
            {"name": "patientage"},
            "is called patientAge there, and upper and lower case are one. .* take that name again",
        ),
    ],
)
def test_users_column_that_is_declared_otherwise_is_refused_and_nothing_written(lake, change, told):
    store(lake, study("1", patientAge="017Y"), table=WIDER)
    version = lake.version(WIDER)
    other = replace(STUDY, columns=(*STUDY.columns, replace(AGE, **change)))
    with pytest.raises(ForeignTableError, match=rf"^The column (?i:patientAge) of DICOM_EXTRA_COLUMNS .*{told}"):
        store(lake, study("2"), table=other)
    assert lake.version(WIDER) == version


def foreign(path: Path, change) -> None:
    schema = STUDY.schema
    extra = pa.field("hospital", pa.string())
    if change == "other columns":
        write_deltalake(path, pa.table({"id": [1]}))
    elif change == "other type":
        place = schema.get_field_index("studyDate")
        DeltaTable.create(path, schema.set(place, pa.field("studyDate", pa.string())))
    elif change == "nullable key":
        place = schema.get_field_index("studyInstanceUid")
        DeltaTable.create(path, schema.set(place, pa.field("studyInstanceUid", pa.string())))
    elif change == "partitioned":
        DeltaTable.create(path, schema, partition_by=["partitionName"])
    elif change == "newer reader":
        DeltaTable.create(path, schema, configuration={"delta.columnMapping.mode": "name"})
    elif change == "required column":
        DeltaTable.create(path, schema.append(extra.with_nullable(False)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("other columns", "it has no column partitionName"),
        ("other type", "its column studyDate is of type string, not date32[day]"),
        ("nullable key", "its column studyInstanceUid may be null, and ours may not"),
        ("partitioned", "it is partitioned, and ours are not"),
        ("newer reader", "it needs Delta reader version 2, and ours are of version 1"),
        ("required column", "it needs a value in its column hospital, which ours do not have"),
    ],
)
def test_foreign_table_is_refused_and_not_touched(lake, tmp_path, change, told):
    foreign(tmp_path / "study", change)
    before = sorted(file.name for file in (tmp_path / "study").rglob("*"))
    for attempt in (lambda: lake.open(STUDY), lambda: store(lake, study("1"))):
        with pytest.raises(ForeignTableError) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"The table at {tmp_path}/study is not the study table of this project: {told}. ")
        assert "DICOM_STUDY_TABLE_PATH" in message
    assert sorted(file.name for file in (tmp_path / "study").rglob("*")) == before


# Storage that refuses


def in_place_of_a_folder(tmp_path: Path) -> str:
    (tmp_path / "lake").write_text("a file")
    return str(tmp_path / "lake")


@pytest.mark.parametrize("place", [in_place_of_a_folder, lambda tmp_path: "/proc/lake"], ids=["file", "proc"])
def test_lake_that_cannot_be_written_is_explained(tmp_path, place):
    url = place(tmp_path)
    lake = Lake(Storage(url), {"study": "study"})
    with pytest.raises(LakeUnavailableError) as caught:
        store(lake, study("1", patientName="ZZPATIENTZZ"))
    assert str(caught.value).startswith(f"Could not create {url}/study: ")
    assert "Check that DICOM_STORAGE_URL names a folder this user may write to, with space left." in str(caught.value)


def test_file_in_place_of_a_table_is_explained(lake, tmp_path):
    (tmp_path / "study").write_text("a file")
    with pytest.raises(LakeUnavailableError, match=r"^Could not open .*/study: "):
        store(lake, study("1"))


def test_data_file_that_is_missing_is_explained(lake, tmp_path):
    store(lake, study("1"))
    for file in (tmp_path / "study").glob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeUnavailableError, match=r"^Could not read .*/study: "):
        build_lake(tmp_path).write(STUDY, Wanted([study("1", patientSex="F")]))


# Concurrent writers


class Interrupted(Wanted):
    """Somebody else commits while the rows are built."""

    def __init__(self, other, rows, gone=(), times=1) -> None:
        super().__init__(rows, gone)
        self.other, self.times = other, times

    def build(self):
        if self.builds < self.times:
            self.other(self.builds)
        return super().build()


def test_lost_race_is_tried_again_and_the_rows_of_both_are_there(lake, tmp_path, no_pause):
    store(lake, study("1"))
    other = build_lake(tmp_path)
    mine = Interrupted(lambda build: store(other, study("2", patientSex="M")), [study("2", patientSex="F"), study("3")])
    written = lake.write(STUDY, mine)
    assert (written.conflicts, written.commits, written.inserted, written.updated) == (1, 1, 1, 1)
    assert by_study(read(lake)) == {"1": None, "2": "F", "3": None}
    assert written.row_count == 3


def test_files_of_lost_commits_are_deleted(lake, tmp_path, no_pause):
    store(lake, study("1"))
    lake.write(
        STUDY, Interrupted(lambda build: store(build_lake(tmp_path), study(f"9.{build}")), [study("2")], times=3)
    )
    history = {line["add"]["path"] for line in map(json.loads, log_text(lake).splitlines()) if "add" in line}
    assert data_files(lake) == history


def test_two_that_only_delete_do_not_disturb_each_other(lake, tmp_path, no_pause):
    store(lake, study("1"))
    store(lake, study("2"))
    other = lambda build: build_lake(tmp_path).write(STUDY, Wanted([], [study("1")]))  # noqa: E731
    written = lake.write(STUDY, Interrupted(other, [], [study("1"), study("2")]))
    assert (written.conflicts, written.deleted) == (1, 1)
    assert read(lake) == []


def test_commit_whose_answer_got_lost_keeps_its_files(lake, monkeypatch, no_pause):
    commit, failures = Lake._commit, iter([True])

    def answer_lost(self, snapshot, actions):
        commit(self, snapshot, actions)
        if next(failures, False):
            raise CommitFailedError("already exists")

    monkeypatch.setattr(Lake, "_commit", answer_lost)
    written = store(lake, study("1", patientSex="F"))
    assert by_study(read(lake)) == {"1": "F"}
    assert (written.version, written.row_count, written.conflicts) == (1, 1, 1)


def test_writer_who_loses_every_attempt_says_so(lake, tmp_path, monkeypatch, no_pause):
    monkeypatch.setattr(delta, "ATTEMPTS", 2)
    store(lake, study("1"))
    loser = Interrupted(lambda build: store(build_lake(tmp_path), study(f"9.{build}")), [study("2")], times=9)
    with pytest.raises(CommitConflictError) as caught:
        lake.write(STUDY, loser)
    assert str(caught.value).startswith(
        f"Could not write {tmp_path}/study: other writers or moving sources won 2 attempts."
    )
    assert loser.builds == 2
    assert set(by_study(read(lake))) == {"1", "9.0", "9.1"}


def test_sources_that_moved_are_read_again(lake):
    class Moving(Wanted):
        def is_current(self) -> bool:
            return self.builds == 3

        def build(self):
            super().build()
            return Wanted([study(str(self.builds))]).desired

    written = lake.write(STUDY, Moving([]))
    assert (written.inserted, written.commits, written.row_count) == (3, 3, 3)


def test_sources_that_never_rest_are_an_error(lake, monkeypatch):
    monkeypatch.setattr(delta, "ATTEMPTS", 2)

    class Restless(Wanted):
        def is_current(self) -> bool:
            return False

    with pytest.raises(CommitConflictError, match="moving sources"):
        lake.write(STUDY, Restless([study("1")]))


def test_two_that_create_a_table_at_once_both_write(tmp_path, monkeypatch):
    lake, other = build_lake(tmp_path), build_lake(tmp_path)
    create = Lake._create

    def late(self, table):
        if self is lake and other.open(table) is None:
            store(other, study("2"))
        create(self, table)

    monkeypatch.setattr(Lake, "_create", late)
    store(lake, study("1"))
    assert set(by_study(read(lake))) == {"1", "2"}


def test_two_that_add_a_column_at_once_both_write(tmp_path, monkeypatch):
    lake, other = build_lake(tmp_path), build_lake(tmp_path)
    store(lake, study("1"))
    opened, raced = Lake.open, []

    def late(self, table):
        snapshot = opened(self, table)
        if self is lake and not raced:
            raced.append(True)
            store(other, study("2", patientAge="017Y"), table=WIDER)
        return snapshot

    monkeypatch.setattr(Lake, "open", late)
    store(lake, study("3", patientAge="018Y"), table=WIDER)
    assert raced
    found = {row["studyInstanceUid"]: row.get("patientAge") for row in read(lake, WIDER)}
    assert found == {"1": None, "2": "017Y", "3": "018Y"}


def test_writers_in_threads_lose_no_row(lake, tmp_path):
    lake.open_or_create(STUDY)
    lakes = [build_lake(tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=store, args=(one, study("0"), study(str(number)))) for number, one in
               enumerate(lakes, start=1)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["studyInstanceUid"] for row in read(lake)] == ["0", "1", "2", "3"]


# Readers


@pytest.fixture
def used(lake) -> Lake:
    """A table after inserts, updates and deletes."""
    store(lake, *(study(str(number), patientSex="M", patientName=f"Müller^{number}") for number in range(6)))
    store(lake, study("7", patientSex="F"), study("8"))
    lake.write(
        STUDY, Wanted([study("1", patientSex="F"), study("7", patientSex="F", studyTime="1")], [study("0"), study("8")])
    )
    return lake


def by_query(table: DeltaTable) -> pa.Table:
    return pa.table(QueryBuilder().register("study", table).execute("SELECT * FROM study WHERE \"patientSex\" = 'F'"))


def by_dataset(table: DeltaTable) -> pa.Table:
    return table.to_pyarrow_dataset().to_table(filter=ds.field("patientSex") == "F", use_threads=False)


def by_polars(table: DeltaTable) -> pa.Table:
    return pl.scan_delta(table).filter(pl.col("patientSex") == "F").collect().to_arrow()


@pytest.mark.parametrize("reader", [by_query, by_dataset, by_polars])
def test_readers_agree_with_a_filter_on_a_text(used, reader):
    found = reader(DeltaTable(used.uri(STUDY))).to_pylist()
    wanted = [row for row in used.open(STUDY).read_table().to_pylist() if row["patientSex"] == "F"]
    assert len(wanted) == 2
    order = lambda row: row["studyInstanceUid"]  # noqa: E731
    assert sorted(found, key=order) == sorted(wanted, key=order)


def test_older_versions_can_still_be_read(used):
    assert DeltaTable(used.uri(STUDY), version=1).to_pyarrow_table().num_rows == 6
    assert {row["studyInstanceUid"] for row in read(used)} == {"1", "2", "3", "4", "5", "7"}


def test_vacuum_leaves_what_the_newest_version_needs(used):
    used.open(STUDY).connect().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert data_files(used) == live_files(used)
    assert len(read(used)) == 6


def test_rows_can_be_read_in_part(used):
    snapshot = used.open(STUDY)
    assert snapshot.read_table(["patientSex", "studyInstanceUid"]).schema.names == ["patientSex", "studyInstanceUid"]
    only = snapshot.read_table(["studyInstanceUid"], files=snapshot.files_of_studies(pa.array(["7"])))
    assert "7" in only["studyInstanceUid"].to_pylist()
    assert len(only) < snapshot.row_count


def test_lake_can_be_moved(used, tmp_path):
    shutil.move(tmp_path / "study", tmp_path / "elsewhere" / "study")
    moved = build_lake(tmp_path / "elsewhere")
    assert len(read(moved)) == 6
    assert store(moved, study("1", patientSex="O")).updated == 1


def test_tables_may_lie_in_folders_of_their_own(tmp_path):
    lake = Lake(Storage(str(tmp_path)), {"study": "gold/studies", "series": "silver/series"})
    store(lake, study("1"))
    assert lake.uri(STUDY) == str(tmp_path / "gold/studies")
    assert lake.open(SERIES) is None
    assert deltalake.DeltaTable(tmp_path / "gold/studies").version() == 1


# Small files


def test_small_files_are_joined_without_a_change_of_data(lake):
    for number in range(data_file.JOINED_FILES):
        written = store(lake, study(f"{number}"))
    assert written.file_count == len(live_files(lake)) == 1
    assert written.row_count == len(read(lake)) == data_file.JOINED_FILES
    last = json.loads(log_text(lake).splitlines()[-1])
    assert last["remove"]["dataChange"] is False
    assert store(lake, study("0", patientSex="F")).updated == 1


def test_very_many_small_files_are_joined_over_several_writes(lake, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(delta, "group_small_files", lambda files: [])
        for number in range(3 * data_file.JOINED_FILES):
            store(lake, study(f"{number}"))
    monkeypatch.setattr(delta, "JOINED_AT_ONCE", 2 * data_file.JOINED_FILES)
    left = [store(lake, study("0", patientSex=sex)).file_count for sex in ("F", "M")]
    assert left == [data_file.JOINED_FILES + 1, 1]
    assert len(read(lake)) == 3 * data_file.JOINED_FILES


def test_joining_that_loses_to_another_writer_is_left_for_the_next_time(lake, monkeypatch):
    monkeypatch.setattr(data_file, "JOINED_FILES", 2)
    store(lake, study("1"))
    commits = []

    def commit_behind_another(self, snapshot, actions, original=Lake._commit):
        commits.append(actions)
        if len(commits) == 2:
            store(build_lake(Path(lake.storage.url)), study("3"))
        original(self, snapshot, actions)

    monkeypatch.setattr(Lake, "_commit", commit_behind_another)
    store(lake, study("2"))
    assert by_study(read(lake)) == {"1": None, "2": None, "3": None}
    assert data_files(lake) >= live_files(lake)


def metrics(commit: dict) -> dict[str, int]:
    return {name: int(value) for name, value in commit["operationMetrics"].items()}


def test_history_tells_what_each_commit_was_and_the_rows_it_changed(lake):
    store(lake, study("1"), study("2"), study("3"))
    lake.write(STUDY, Wanted([study("1", patientSex="O"), study("4")], [study("3")]))
    for number in range(data_file.JOINED_FILES):
        store(lake, study(f"9.{number}"))
    optimized, created, first, merged = sorted(
        lake.open(STUDY).connect().history(), key=lambda commit: (commit["operation"] != "OPTIMIZE", commit["version"])
    )[:4]
    assert [each["operation"] for each in (created, first, merged, optimized)] == [
        "CREATE TABLE", "MERGE", "MERGE", "OPTIMIZE"
    ]  # fmt: skip
    rows = ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted", "numTargetRowsCopied")
    assert [metrics(first)[name] for name in rows] == [3, 0, 0, 0]
    assert [metrics(merged)[name] for name in rows] == [1, 1, 1, 1]
    files = ("numTargetFilesAdded", "numTargetFilesRemoved", "numOutputRows")
    assert [metrics(merged)[name] for name in files] == [2, 1, 3]
    assert metrics(merged)["numTargetBytesRemoved"] == metrics(first)["numTargetBytesAdded"] > 0
    assert metrics(optimized)["numRemovedFiles"] > metrics(optimized)["numAddedFiles"] == 1
    assert merged["readVersion"] == first["version"] == 1
    assert {each["engineInfo"].partition("/")[0] for each in (created, first, merged, optimized)} == {"dicom-assets"}
    assert "studyInstanceUid" in merged["operationParameters"]["predicate"]


def test_history_tells_of_columns_and_properties_that_were_added(lake):
    store(lake, study("1"))
    store(lake, study("2", patientAge="017Y"), table=WIDER)
    lake.set_properties(STUDY, {"delta.isolationLevel": "Serializable"})
    properties, _, columns, *_ = lake.open(STUDY).connect().history()
    assert (columns["operation"], json.loads(columns["operationParameters"]["columns"])) == (
        "ADD COLUMN", ["patientAge", "all"]
    )  # fmt: skip
    assert (properties["operation"], json.loads(properties["operationParameters"]["properties"])) == (
        "SET TBLPROPERTIES", {"delta.isolationLevel": "Serializable"}
    )  # fmt: skip
    metadata = lake.open(STUDY).connect().metadata()
    assert metadata.configuration["delta.isolationLevel"] == "Serializable"
    assert metadata.configuration["delta.checkpointInterval"] == "10"
    assert (metadata.name, str(metadata.id)) == ("study", lake.open(STUDY).table_id)


def test_commit_that_was_made_though_its_answer_got_lost_is_no_conflict(lake, monkeypatch, no_pause):
    """As where the native client tries again by itself, and then finds the file that it has put."""
    store(lake, study("1"))
    put, lost = obstore.put, iter([True])

    def answer_lost(store_, name, content, **options):
        answer = put(store_, name, content, **options)
        if options.get("mode") == "create" and next(lost, False):
            return put(store_, name, content, **options)
        return answer

    monkeypatch.setattr(obstore, "put", answer_lost)
    written = store(lake, study("2"))
    assert next(lost, None) is None
    assert (written.conflicts, written.commits, written.inserted, written.version) == (0, 1, 1, 2)


def test_commit_is_made_though_its_checkpoint_cannot_be_written(lake, monkeypatch, caplog):
    def refuse(self):
        raise DeltaError("no space left")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", refuse)
    with caplog.at_level("INFO"):
        for number in range(12):
            assert store(lake, study(str(number))).conflicts == 0
    assert "no space left" in caplog.text
    assert len(read(lake)) == 12
    assert not (Path(lake.uri(STUDY)) / "_delta_log" / "_last_checkpoint").exists()


def test_nothing_is_committed_after_a_version_that_is_not_there_any_more(lake):
    """Else the log would have a gap, or the commit of another table's history would be its predecessor."""
    lake.open_or_create(STUDY)
    for number in "12":
        lake.set_properties(STUDY, {"test.number": number})

    class Removed(Wanted):
        def build(self):
            shutil.rmtree(lake.uri(STUDY))
            build_lake(Path(lake.storage.url)).open_or_create(STUDY)
            return super().build()

    with pytest.raises(LakeUnavailableError, match="created anew"):
        lake.write(STUDY, Removed([study("3")]))
    assert build_lake(Path(lake.storage.url)).version(STUDY) == 0


def test_log_has_a_checkpoint_every_ten_commits(lake):
    for number in range(25):
        store(lake, study(str(number)))
    last = json.loads((Path(lake.uri(STUDY)) / "_delta_log" / "_last_checkpoint").read_text())
    assert 0 <= lake.version(STUDY) - last["version"] < 10


def test_version_is_the_newest_until_the_next_commit(lake):
    assert lake.has_version(STUDY, None)
    store(lake, study("1"))
    version = lake.version(STUDY)
    assert lake.has_version(STUDY, version)
    assert not lake.has_version(STUDY, None)
    store(lake, study("2"))
    assert not lake.has_version(STUDY, version)
    assert lake.has_version(STUDY, lake.version(STUDY))


@pytest.mark.parametrize("known", [True, False], ids=["by what was looked at", "by the number alone"])
def test_version_of_a_table_that_was_made_anew_is_another_one(lake, tmp_path, known):
    store(lake, study("1"))
    logged = lake.open(STUDY)
    shutil.rmtree(lake.uri(STUDY))
    store(build_lake(tmp_path), study("2"))
    assert not lake.has_version(STUDY, logged if known else logged.version)
    assert not lake.has_version(STUDY, logged)
    assert lake.has_version(STUDY, lake.open(STUDY))


def test_version_that_a_backup_brought_back_otherwise_is_another_one(lake, tmp_path):
    store(lake, study("1"))
    shutil.copytree(lake.uri(STUDY), tmp_path / "backup")
    store(lake, study("2"))
    logged = lake.open(STUDY)
    shutil.rmtree(lake.uri(STUDY))
    shutil.copytree(tmp_path / "backup", lake.uri(STUDY))
    assert not lake.has_version(STUDY, logged)
    store(build_lake(tmp_path), study("3"))
    assert lake.version(STUDY) == logged.version
    assert not lake.has_version(STUDY, logged)


def refusing(error: Exception):
    attempts = []

    def put(store_, name, content, *, put=obstore.put, **options):
        if options.get("mode") == "create":
            attempts.append(name)
            raise error
        return put(store_, name, content, **options)

    return put, attempts


@pytest.mark.parametrize(
    "work",
    [
        lambda lake: store(lake, study("2")),
        lambda lake: lake.set_properties(STUDY, {"a": "b"}),
        lambda lake: store(lake, study("2", patientAge="017Y"), table=WIDER),
        lambda lake: build_lake(Path(lake.storage.url), retention_hours=100).keep_retention(lake.open(STUDY)),
        lambda lake: store(lake, entry(1), table=CHANGE_FEED),
    ],
    ids=["rows", "properties", "columns", "retention", "a new table"],
)
def test_commit_that_is_refused_is_no_lost_race_and_not_tried_again(lake, monkeypatch, work):
    store(lake, study("1"))
    put, attempts = refusing(PermissionError("read-only file system"))
    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(LakeUnavailableError, match="read-only file system"):
        work(lake)
    assert len(attempts) == 1


def test_commit_whose_place_is_taken_by_what_is_no_newer_version_is_no_lost_race(lake, monkeypatch):
    store(lake, study("1"))
    version = lake.version(STUDY)
    monkeypatch.setattr(DeltaTable, "update_incremental", lambda self: None)  # as where an account lists too little
    monkeypatch.setattr(version_cache, "DeltaTable", lambda *given, **named: DeltaTable(given[0], version=version))
    Path(lake.uri(STUDY), commit_name(version + 1)).write_text('{"commitInfo":{}}')
    wanted = Wanted([study("2")])
    with pytest.raises(LakeUnavailableError, match=f"a file of version {version + 1}, which is not listed"):
        lake.write(STUDY, wanted)
    assert wanted.builds == 1


def test_properties_and_columns_that_others_were_quicker_to_change_are_tried_again(lake, tmp_path, no_pause):
    store(lake, study("1"))
    commit, others = Lake._commit, iter(range(3))

    def after_another(self, snapshot, action):
        if self is lake and next(others, None) is not None:
            commit(self._other, self._other.open(STUDY), action)
        commit(self, snapshot, action)

    lake._other = build_lake(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "_commit", after_another)
        lake.set_properties(STUDY, {"a": "b"})
    assert lake.open(STUDY).configuration["a"] == "b"
    assert next(others, None) is None


def test_properties_that_others_are_always_quicker_to_change_are_a_conflict(lake, monkeypatch, no_pause):
    store(lake, study("1"))

    def lose(self, snapshot, action):
        raise CommitFailedError

    monkeypatch.setattr(Lake, "_commit", lose)
    for work in (lambda: lake.set_properties(STUDY, {"a": "b"}), lambda: lake.open_or_create(WIDER)):
        with pytest.raises(CommitConflictError, match="other writers won"):
            work()


def test_files_of_an_account_that_change_are_read_side_by_side(tmp_path, monkeypatch):
    lake = build_lake(tmp_path, kind=FarStorage)
    for uid in ("1.1", "1.2"):
        store(lake, study(uid))
    read_file, together = Files.read, threading.Barrier(2)

    def wait_and_read(files, file, schema, **options):
        if schema.names == STUDY.schema.names:
            together.wait(60)
        return read_file(files, file, schema, **options)

    monkeypatch.setattr(Files, "read", wait_and_read)
    written = store(lake, study("1.1", patientSex="F"), study("1.2", patientSex="F"))
    assert (written.updated, written.inserted) == (2, 0)
