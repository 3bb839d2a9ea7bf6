"""The kept version is the newest one, whoever wrote it, and whatever became of the table meanwhile."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table import version_cache
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import commit_name
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets_tests.lakes.building import Wanted, build_lake, live_files, read, store, study


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path)


@pytest.fixture
def other(tmp_path) -> Lake:
    """Another writer's view of the same lake."""
    return build_lake(tmp_path)


@pytest.fixture
def opened(monkeypatch) -> list[int]:
    """The versions that were opened by reading the log from its start or a checkpoint."""
    versions: list[int] = []

    class Counted(DeltaTable):
        def __init__(self, *given, **named) -> None:
            super().__init__(*given, **named)
            versions.append(self.version())

    monkeypatch.setattr(version_cache, "DeltaTable", Counted)
    return versions


def fill(lake: Lake, commits: int, name: str = "1") -> None:
    """As many commits after the one that creates the table, with a study each."""
    lake.open_or_create(STUDY)
    for number in range(commits):
        store(lake, study(f"{name}.{number}"))


def studies(lake: Lake) -> set[str]:
    return {row["studyInstanceUid"] for row in read(lake)}


def folder(lake: Lake) -> Path:
    return Path(lake.uri(STUDY))


def commit_file(lake: Lake, version: int) -> Path:
    return folder(lake) / commit_name(version)


def test_table_is_opened_once_for_any_number_of_looks_and_writes(lake, opened):
    fill(lake, 12)
    assert lake.open(STUDY).version == lake.open(STUDY).version == lake.version(STUDY)
    assert len(live_files(lake)) == len(lake.open(STUDY).files)
    assert opened == [0]


def test_log_is_evaluated_once_for_a_commit(lake, monkeypatch):
    fill(lake, 1)
    evaluated: list[int] = []

    class Counted(Snapshot):
        @classmethod
        def of(cls, delta, *given):
            evaluated.append(delta.version())
            return Snapshot.of(delta, *given)

    monkeypatch.setattr(version_cache, "Snapshot", Counted)
    version = store(lake, study("1.5")).version
    assert evaluated == [version]


def test_two_looks_at_one_version_share_what_the_log_says(lake):
    fill(lake, 1)
    assert lake.open(STUDY).files is lake.open(STUDY).files


def test_commits_of_others_are_seen_without_opening_the_table_again(lake, other, opened):
    fill(lake, 2)
    first = lake.open(STUDY).version
    opened.clear()
    for number in range(12):  # past a checkpoint
        store(other, study("2", patientSex=str(number)))
        assert lake.version(STUDY) == other.version(STUDY) == first + number + 1
    assert len(opened) == 1, "by the other one"
    DeltaTable(lake.uri(STUDY)).optimize.compact()
    assert {file.name for file in lake.open(STUDY).files} == live_files(lake)
    assert studies(lake) == {"1.0", "1.1", "2"}


def test_commit_of_another_process_is_seen(lake):
    fill(lake, 1)
    version = lake.version(STUDY)
    delete = "import sys; from deltalake import DeltaTable; DeltaTable(sys.argv[1]).delete()"
    subprocess.run([sys.executable, "-c", delete, lake.uri(STUDY)], check=True)
    assert lake.version(STUDY) == version + 1
    assert lake.open(STUDY).row_count == 0


@pytest.mark.parametrize("commits", [0, 2, 3, 4])
def test_table_created_anew_is_seen_at_whatever_version_it_is(lake, other, commits):
    fill(lake, 3)
    old = lake.open(STUDY)
    shutil.rmtree(folder(lake))
    fill(other, commits, "2")
    assert lake.open(STUDY).table_id == other.open(STUDY).table_id != old.table_id
    assert lake.version(STUDY) == commits
    assert studies(lake) == {f"2.{number}" for number in range(commits)}
    store(lake, study("3"))
    assert studies(other) == {"3", *(f"2.{number}" for number in range(commits))}


def test_deleted_table_is_no_more_and_is_created_again(lake):
    fill(lake, 3)
    shutil.rmtree(folder(lake))
    assert lake.open(STUDY) is None
    assert store(lake, study("2")).version == 1
    assert studies(lake) == {"2"}


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
def test_table_brought_back_from_a_backup_is_seen_as_it_was_and_as_it_becomes(lake, other, tmp_path, commits):
    fill(lake, 2)
    shutil.copytree(folder(lake), tmp_path / "backup")
    store(lake, study("lost"))
    store(lake, study("lost too"))
    shutil.rmtree(folder(lake))
    shutil.copytree(tmp_path / "backup", folder(lake))
    for number in range(commits):
        store(other, study(f"2.{number}"))
    assert lake.version(STUDY) == 2 + commits
    assert studies(lake) == {"1.0", "1.1", *(f"2.{number}" for number in range(commits))}


def test_version_whose_commit_was_cleaned_away_is_opened_from_the_checkpoint(lake, other, opened):
    fill(lake, 3)
    kept = lake.version(STUDY)
    fill(other, 20, "2")
    for version in range(kept + 2):
        commit_file(lake, version).unlink()
    opened.clear()
    assert lake.version(STUDY) == other.version(STUDY)
    assert opened == [other.version(STUDY)]
    assert len(studies(lake)) == 23


def test_newest_version_without_a_commit_is_not_kept(lake, opened):
    fill(lake, 3)
    version = lake.version(STUDY)
    DeltaTable(lake.uri(STUDY)).create_checkpoint()
    commit_file(lake, version).unlink()
    opened.clear()
    assert lake.version(STUDY) == lake.version(STUDY) == version
    assert opened == [version, version]


def test_table_that_was_long_not_looked_at_is_opened_again(lake, other, opened, monkeypatch):
    """By then the next commit may have been made and cleaned away."""
    fill(lake, 3)
    kept = lake.version(STUDY)
    fill(other, 20, "2")
    commit_file(lake, kept + 1).unlink()
    opened.clear()
    monkeypatch.setattr(version_cache, "KEPT_SECONDS", -1)
    assert lake.version(STUDY) == other.version(STUDY)
    assert lake.version(STUDY) in opened


def test_table_whose_log_cannot_be_read_on_is_opened_again(lake, other, opened, monkeypatch):
    fill(lake, 1)
    store(other, study("2"))
    opened.clear()

    def refuse(self) -> None:
        raise OSError("gone")

    monkeypatch.setattr(DeltaTable, "update_incremental", refuse)
    assert studies(lake) == {"1.0", "2"}
    assert opened == [2]


def test_snapshot_stays_what_it_is_while_the_lake_goes_on(lake):
    fill(lake, 2)
    snapshot, other = lake.open(STUDY), lake.open(STUDY)
    files = {file.name for file in snapshot.files}
    store(lake, study("2"))
    assert {file.name for file in snapshot.files} == files
    assert len(snapshot.read_table()) == len(other.read_table()) == 2
    assert snapshot.version == snapshot.connect().version() == other.connect().version() == 2
    assert lake.version(STUDY) == 3


def test_table_in_the_hands_of_another_is_nobody_elses(lake):
    fill(lake, 2)
    handed_out = lake.open(STUDY).connect()
    store(lake, study("2"))
    assert handed_out.version() == 2
    handed_out.load_as_version(1)
    assert lake.version(STUDY) == 3
    lake.open(STUDY).connect().delete()
    assert lake.open(STUDY).row_count == 0


def test_snapshot_of_a_table_that_was_created_anew_is_of_no_use(lake, other):
    fill(lake, 2)
    snapshot = lake.open(STUDY)
    shutil.rmtree(folder(lake))
    fill(other, 4, "2")
    lake.open(STUDY)
    with pytest.raises(LakeUnavailableError, match="created anew"):
        _ = snapshot.connect()


def test_nothing_is_committed_to_a_table_that_was_created_anew_meanwhile(lake, other):
    """Not even rows that no file of the old one has anything to do with."""
    lake.open_or_create(STUDY)

    class Overtaken(Wanted):
        def build(self):
            shutil.rmtree(folder(lake))
            fill(other, 2, "2")
            lake.open(STUDY)
            return super().build()

    with pytest.raises(LakeUnavailableError, match="created anew"):
        lake.write(STUDY, Overtaken([study("3")]))
    assert studies(other) == {"2.0", "2.1"}
    assert other.version(STUDY) == 2


def test_table_is_opened_again_where_its_token_is_another_one(tmp_path, opened):
    token = ["one"]
    lake = Lake(Storage(str(tmp_path), lambda: {"token": token[0]}), {STUDY.name: STUDY.name})
    fill(lake, 1)
    snapshot = lake.open(STUDY)
    opened.clear()
    token[0] = "two"
    assert snapshot.connect().version() == lake.version(STUDY) == 1
    assert opened == [1, 1]


def test_commit_that_was_made_is_not_lost_where_the_look_after_it_is_refused(lake, monkeypatch):
    fill(lake, 1)
    taken, options = lake._versions[STUDY.name].take(lake.open(STUDY))

    def refuse(self, name):
        raise LakeUnavailableError("storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "stamp", refuse)
        lake._versions[STUDY.name].give_back(STUDY, taken, options)
    assert studies(lake) == {"1.0"}


def test_no_thread_sees_less_than_was_committed_before_it_looked(lake, tmp_path):
    fill(lake, 1)
    committed, seen, done = [lake.version(STUDY)], [], threading.Event()

    def look() -> None:
        while not done.is_set():
            least = committed[-1]
            snapshot = lake.open(STUDY)
            seen.append((least, snapshot.version, snapshot.row_count))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(15):
            writer = lake if number % 2 else build_lake(tmp_path)
            store(writer, study(f"2.{number}"))
            committed.append(writer.version(STUDY))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert seen
    assert all(version >= least for least, version, _ in seen)
    assert studies(lake) == {"1.0", *(f"2.{number}" for number in range(15))}
