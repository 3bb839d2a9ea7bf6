import os
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import CommitFailedError

from dicom_assets.core.columns.schema import CHANGE_FEED, STUDY
from dicom_assets.core.errors import ForeignTableError, LakeRefusedError
from dicom_assets.lake import upkeep
from dicom_assets.lake.files import parquet
from dicom_assets.lake.table import delta
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import choose_files, maintain
from dicom_assets_tests.core.tables.rows import entry, moment
from dicom_assets_tests.lakes.building import (
    Wanted,
    build_lake,
    contents,
    data_files,
    hours_ago,
    live_files,
    read,
    store,
    study,
)

RETENTION = 100


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path / "lake", retention_hours=RETENTION)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(delta.secrets, "randbelow", lambda most: 0)


@pytest.fixture
def unkempt(tmp_path) -> Lake:
    """The same lake, kept for ever until now: with every commit the log would lose what is too old otherwise."""
    return build_lake(tmp_path / "lake", retention_hours=10**5)


def fill(lake: Lake, first: int = 240, last: int = 0, step: int = 8) -> dict[int, list[dict]]:
    """A table whose commits are hours apart, with the rows that each version had."""
    versions = {}
    for hours in range(first, last, -step):
        with hours_ago(lake, hours):
            store(lake, study(f"1.{hours}"), study("1.1", patientSex=str(hours)))
        versions[lake.version(STUDY)] = read(lake)
    return versions


def put(lake: Lake, name: str, hours: float = 10**4) -> Path:
    """A file of somebody's in the table's folder."""
    path = Path(lake.uri(STUDY), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")
    os.utime(path, (time.time() - hours * 3600,) * 2)
    return path


def read_version(lake: Lake, version: int) -> list[dict]:
    rows = pa.table(
        QueryBuilder().register("t", DeltaTable(lake.uri(STUDY), version=version)).execute("select * from t")
    )
    rows = sorted(rows.to_pylist(), key=lambda row: [row[name] for name in STUDY.key])
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


# What it does


def test_table_that_does_not_exist_is_left_alone(lake, tmp_path):
    assert maintain(lake, STUDY) is None
    assert not (tmp_path / "lake").exists()


def test_dry_run_changes_no_byte_and_tells_what_the_run_after_it_does(lake, unkempt, tmp_path):
    fill(unkempt)
    put(lake, "part-orphan.parquet")
    put(lake, "part-torn.parquet#1")
    before = contents(tmp_path)
    planned = maintain(lake, STUDY, dry_run=True)
    assert contents(tmp_path) == before
    done = maintain(lake, STUDY)
    assert planned.before == done.before
    assert (planned.after.live_files, planned.after.stored_files) == (done.after.live_files, done.after.stored_files)
    for name in ("joined_files", "joined_into", "removed_files", "removed_bytes", "removed_log_files"):
        assert getattr(planned, name) == getattr(done, name) > 0, name
    assert (planned.oldest_version, planned.oldest_since) == (done.oldest_version, done.oldest_since)


def test_upkeep_tells_what_there_is(lake):
    fill(lake)
    done = maintain(lake, STUDY)
    on_disk = [Path(lake.uri(STUDY), name) for name in data_files(lake)]
    log = [path for path in Path(lake.uri(STUDY), "_delta_log").iterdir() if not path.name.startswith("_")]
    after = done.after
    assert (after.stored_files, after.stored_bytes) == (len(on_disk), sum(path.stat().st_size for path in on_disk))
    assert (after.version, after.live_files, after.live_bytes) == (lake.version(STUDY), 1, lake.open(STUDY).size_bytes)
    assert after.log_files == len(log)
    assert done.before.stored_files + done.joined_into - done.removed_files == after.stored_files
    assert done.is_complete


def test_upkeep_right_after_another_does_nothing(lake, tmp_path):
    fill(lake)
    maintain(lake, STUDY)
    before = contents(tmp_path)
    again = maintain(lake, STUDY)
    assert contents(tmp_path) == before
    assert (again.joined_files, again.removed_files, again.removed_log_files) == (0, 0, 0)
    assert again.before == again.after


def test_upkeep_of_one_who_opened_the_table_before_another_cleaned_its_log_does_nothing_more(lake, tmp_path):
    with hours_ago(lake, 2 * RETENTION):
        store(lake, study("1.1"))
    lake.open(STUDY)
    maintain(build_lake(tmp_path / "lake", retention_hours=RETENTION), STUDY)
    before = contents(tmp_path)
    assert maintain(lake, STUDY).is_complete
    assert contents(tmp_path) == before


def test_upkeep_beside_which_another_cleans_the_log_goes_on(lake, tmp_path, monkeypatch):
    fill(lake, first=240, last=RETENTION)
    vacuum = DeltaTable.vacuum

    def clean_first(table: DeltaTable, *args, **options) -> list[str]:
        monkeypatch.setattr(DeltaTable, "vacuum", vacuum)
        maintain(build_lake(tmp_path / "lake", retention_hours=RETENTION), STUDY)
        return table.vacuum(*args, **options)

    monkeypatch.setattr(DeltaTable, "vacuum", clean_first)
    assert maintain(lake, STUDY).is_complete
    assert len(read(lake)) == 19


def test_newest_version_is_read_from_a_checkpoint(lake):
    fill(lake, first=40)
    done = maintain(lake, STUDY)
    assert Path(lake.uri(STUDY), f"_delta_log/{done.after.version:020}.checkpoint.parquet").exists()


# Small files


def test_joining_changes_no_row_and_is_no_change_of_data(lake):
    fill(lake, first=40)
    rows, version = read(lake), lake.version(STUDY)
    assert len(live_files(lake)) == 5
    done = maintain(lake, STUDY)
    assert (done.joined_files, done.joined_into) == (5, 1)
    assert read(lake) == rows
    assert len(live_files(lake)) == 1
    log = Path(lake.uri(STUDY), f"_delta_log/{version + 1:020}.json").read_text()
    assert log.count('"dataChange":false') == 6
    assert '"dataChange":true' not in log


def test_what_deletes_left_of_large_files_is_joined_and_large_files_are_not(lake, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 8)
    monkeypatch.setattr(upkeep, "ROWS_PER_FILE", 8)
    for file in range(4):
        store(lake, *(study(f"{file}.{row}") for row in range(8)))
    gone = [study(f"{file}.{row}") for file in (0, 2) for row in range(1, 8)]
    lake.write(STUDY, Wanted([], gone))
    large = {file.name for file in lake.open(STUDY).files if file.rows == 8}
    assert (len(live_files(lake)), len(large)) == (4, 2)
    maintain(lake, STUDY)
    assert large < live_files(lake)
    assert len(live_files(lake)) == 3
    assert len(read(lake)) == 18


def test_files_are_not_joined_into_one_that_memory_would_not_hold(lake, monkeypatch):
    fill(lake, first=40)
    snapshot = lake.open(STUDY)
    largest = max(snapshot.folder.read_row_count_and_bytes(file)[1] for file in snapshot.files)
    monkeypatch.setattr(upkeep, "BYTES_PER_FILE", 2 * largest)
    assert [len(group) for group in choose_files(snapshot)] == [2, 2]


def test_entries_of_an_hour_stay_together(lake, monkeypatch):
    """An hour is found by the files' ranges, which joining in the order of writing would make wide."""
    monkeypatch.setattr(upkeep, "ROWS_PER_FILE", 4)
    monkeypatch.setattr(upkeep, "SMALL", 2)
    for place, hour in enumerate([0, 5, 0, 5]):
        at = {"timestamp": moment(hour), "windowStart": moment(hour)}
        store(lake, *(entry(2 * place + row, **at) for row in (1, 2)), table=CHANGE_FEED)
    maintain(lake, CHANGE_FEED)
    hours = [file.ranges["windowStart"] for file in lake.open(CHANGE_FEED).files]
    assert len(hours) == 2
    assert all(least == greatest for least, greatest in hours)


def test_many_groups_take_several_commits(lake, monkeypatch):
    monkeypatch.setattr(upkeep, "GROUPS_PER_COMMIT", 1)
    monkeypatch.setattr(upkeep, "ROWS_PER_FILE", 4)
    for number in range(6):
        store(lake, study(f"1.{number}"))
    version = lake.version(STUDY)
    done = maintain(lake, STUDY)
    assert (done.joined_files, done.joined_into, done.after.version) == (6, 2, version + 2)
    assert len(read(lake)) == 6


# Beside writers


def lose_commits(lake: Lake, monkeypatch, number: int, then=lambda: None) -> None:
    """The next commits find that a writer was quicker."""
    commit, lost = lake._commit, []

    def lose(snapshot, actions):
        if len(lost) < number:
            lost.append(actions)
            then()
            raise CommitFailedError
        commit(snapshot, actions)

    monkeypatch.setattr(lake, "_commit", lose)


def test_lost_commit_is_tried_again_and_leaves_no_file(lake, monkeypatch):
    fill(lake, first=40)
    rows, files = read(lake), data_files(lake)
    lose_commits(lake, monkeypatch, upkeep.ATTEMPTS - 1)
    done = maintain(lake, STUDY)
    assert (done.joined_files, done.is_complete) == (5, True)
    assert len(data_files(lake) - files) == 1
    assert read(lake) == rows


def test_who_loses_too_often_leaves_the_rest_to_the_next_time(lake, monkeypatch):
    fill(lake, first=40)
    files = data_files(lake)
    lose_commits(lake, monkeypatch, upkeep.ATTEMPTS)
    done = maintain(lake, STUDY)
    assert (done.joined_files, done.is_complete) == (0, False)
    assert data_files(lake) == files
    assert maintain(lake, STUDY).is_complete


def test_files_that_a_writer_replaced_meanwhile_are_left_to_the_next_time(lake, tmp_path, monkeypatch):
    fill(lake, first=40)
    other = build_lake(tmp_path / "lake")
    lose_commits(lake, monkeypatch, 1, then=lambda: store(other, study("1.40", patientSex="changed")))
    done = maintain(lake, STUDY)
    assert (done.joined_files, done.is_complete) == (0, False)
    rows = {row["studyInstanceUid"]: row.get("patientSex") for row in read(lake)}
    assert len(rows) == 6
    assert rows["1.40"] == "changed"


def test_retention_that_a_writer_kept_from_being_told_is_told_the_next_time(lake, tmp_path, monkeypatch):
    fill(lake, first=40)
    longer = build_lake(tmp_path / "lake", retention_hours=200)

    def lose(snapshot):
        raise CommitFailedError

    monkeypatch.setattr(longer, "keep_retention", lose)
    assert not maintain(longer, STUDY).is_complete


# Old files


def test_table_is_told_of_another_retention_once(lake, tmp_path):
    fill(lake, first=40)
    shorter = build_lake(tmp_path / "lake", retention_hours=60)
    version = maintain(shorter, STUDY).after.version
    configuration = DeltaTable(lake.uri(STUDY)).metadata().configuration
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 60 hours"
    assert configuration["delta.logRetentionDuration"] == "interval 60 hours"
    assert configuration["delta.checkpointInterval"] == "10"
    assert maintain(shorter, STUDY).after.version == version


def test_every_version_within_the_retention_can_be_read_and_older_ones_are_gone(lake, unkempt):
    versions = fill(unkempt)
    done = maintain(lake, STUDY)
    assert done.removed_files > 10
    assert done.removed_log_files > 10
    kept = [version for version in versions if version >= done.oldest_version]
    assert kept[0] == done.oldest_version
    assert len(kept) == RETENTION // 8 + 1
    for version in kept:
        assert read_version(lake, version) == versions[version], version
    with pytest.raises(pa.ArrowInvalid, match="not found"):
        read_version(lake, max(version for version in versions if version < done.oldest_version))
    assert RETENTION < (time.time() - done.oldest_since.timestamp()) / 3600 < RETENTION + 8


def test_file_written_long_ago_and_replaced_just_now_stays(lake):
    with hours_ago(lake, 10**4):
        store(lake, study("1"))
    (old,) = live_files(lake)
    store(lake, study("1", patientSex="F"))
    assert maintain(lake, STUDY).removed_files == 0
    assert old in data_files(lake)


@pytest.mark.parametrize("name", ["part-torn.parquet#1", "_delta_log/00000000000000000009.json#1"])
def test_what_a_killed_run_left_goes_when_no_run_can_still_want_it(lake, name):
    fill(lake, first=40)
    old, new = put(lake, name, RETENTION + 1), put(lake, name + "2", RETENTION - 1)
    assert maintain(lake, STUDY, dry_run=True).removed_files == 1
    assert old.exists()
    assert maintain(lake, STUDY).removed_files == 1
    assert not old.exists()
    assert new.exists()


def test_file_that_no_commit_names_goes_when_no_run_can_still_commit_it(lake):
    fill(lake, first=40)
    old, new = put(lake, "part-old.parquet", RETENTION + 1), put(lake, "part-new.parquet", RETENTION - 1)
    assert maintain(lake, STUDY).removed_files == 1
    assert not old.exists()
    assert new.exists()


def test_files_of_a_day_stay_however_short_the_retention(tmp_path):
    lake = build_lake(tmp_path, retention_hours=1)
    fill(lake, first=40)
    unfinished = put(lake, "part-unfinished.parquet", 40)
    assert maintain(lake, STUDY).removed_files == 0
    assert unfinished.exists()


def test_what_is_not_of_the_table_stays(lake, tmp_path):
    fill(lake)
    names = ["_studies/index.arrow", "_doctor/trial", "_part.parquet", "notes.txt", "raw/part-1.parquet", ".keep"]
    foreign = [put(lake, name) for name in names]
    below = build_lake(Path(lake.uri(STUDY), "below"), retention_hours=RETENTION)
    with hours_ago(below, 10**4):
        store(below, study("1"))
        store(below, study("1", patientSex="F"))
    files = contents(Path(below.uri(STUDY)))
    assert maintain(lake, STUDY).removed_files > 0
    assert all(path.exists() for path in foreign)
    assert contents(Path(below.uri(STUDY))) == files


def test_foreign_table_is_refused_and_not_touched(lake, tmp_path):
    table = pa.table({"studyInstanceUid": ["1"], "dt": ["2026-03-01"]})
    write_deltalake(lake.uri(STUDY), table, partition_by=["dt"])
    put(lake, "part-old.parquet")
    before = contents(tmp_path)
    with pytest.raises(ForeignTableError, match="Nothing was written to it"):
        maintain(lake, STUDY)
    assert contents(tmp_path) == before


def test_oldest_version_is_one_whose_files_are_all_there(lake):
    fill(lake)
    delta = lake.open(STUDY).connect()
    oldest = maintain(lake, STUDY).oldest_version
    delta.load_as_version(oldest)
    gone = set(pa.table(delta.get_add_actions())["path"].to_pylist()) - live_files(lake)
    for name in gone:
        Path(lake.uri(STUDY), name).unlink()
    later = maintain(lake, STUDY).oldest_version
    assert later > oldest
    assert read_version(lake, later)


# Readers


def test_readers_that_began_before_within_the_retention_finish(lake):
    fill(lake, first=240, last=RETENTION)
    with hours_ago(lake, RETENTION - 1):
        store(lake, *(study(f"2.{number}") for number in range(50)))
    rows = read(lake)
    opened = DeltaTable(lake.uri(STUDY))
    ours = lake.open(STUDY).read()
    stream = QueryBuilder().register("t", DeltaTable(lake.uri(STUDY))).execute("select studyInstanceUid from t")
    first, _ = next(ours), opened
    for number in range(20):  # everything that they read is replaced and joined meanwhile
        store(lake, *(study(row["studyInstanceUid"], patientSex=str(number)) for row in rows))
    done = maintain(lake, STUDY)
    assert done.removed_files > 0
    uids = {row["studyInstanceUid"] for row in rows}
    assert set(pa.table(stream)["studyInstanceUid"].to_pylist()) == uids
    assert len(first[1]) + sum(len(part) for _, part in ours) == len(uids)
    found = QueryBuilder().register("t", opened).execute("select studyInstanceUid, patientSex from t")
    assert set(pa.table(found)["studyInstanceUid"].to_pylist()) == uids


@pytest.mark.parametrize(("hours", "words"), [(31 * 24, "744 hours ahead of"), (-5, "5 hours behind")])
def test_nothing_is_done_by_a_clock_that_is_not_that_of_storage(lake, monkeypatch, hours, words):
    fill(lake)
    young = put(lake, "part-1.parquet#1", hours=0)
    before = contents(Path(lake.storage.url))
    monkeypatch.setattr(upkeep, "time", SimpleNamespace(time=lambda: time.time() + hours * 3600))
    with pytest.raises(LakeRefusedError, match=words):
        maintain(lake, STUDY)
    assert contents(Path(lake.storage.url)) == before
    assert young.exists()
