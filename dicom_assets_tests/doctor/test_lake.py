"""The lake and the service's files: what is well, and what each way of being unwell looks like."""

import threading
from datetime import date
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.core.finding import Status
from dicom_assets.doctor import lake as checks
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.emulator.conftest import metadata_of
from dicom_assets_tests.lakes.building import as_before_calendars, build_lake, store, study
from dicom_assets_tests.law.world import START, World, hours
from dicom_assets_tests.processes import PATIENCE_SECONDS

READ_ONLY = Path("/sys/kernel")
"""That not even root may write to."""


def test_lake_that_is_well_is_left_as_it_was(ward):
    before = sorted(ward.folder.rglob("*"))
    assert set(ward.statuses("lake").values()) == {"green"}
    assert sorted(ward.folder.rglob("*")) == before


def test_files_that_spark_3_5_refuses_are_yellow_until_upkeep_has_written_them_anew(ward):
    assert ward.examine("lake.dates")["lake.dates"].facts == {"files": 0}
    lake = build_lake(ward.folder / "lake")
    with as_before_calendars():
        store(lake, study("1.7", patientBirthDate=date(1, 1, 1)))
        store(lake, study("1.8", patientBirthDate=date(2026, 1, 1)))
    finding = ward.examine("lake.dates")["lake.dates"]
    assert (finding.status, finding.facts) == (Status.YELLOW, {"files": 1, "study": 1})
    assert "dicom-assets maintain" in finding.remedy
    maintain(lake, STUDY)
    assert ward.statuses("lake.dates")["lake.dates"] == "green"


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="needs a folder that nobody may write to, as Linux has it")
def test_read_only_folder_is_red(ward):
    ward.env |= {"DICOM_STORAGE_URL": str(READ_ONLY.parent), "DICOM_CONTAINER_NAME": READ_ONLY.name}
    found = ward.examine("lake", "files")
    assert found["lake.reach"].status is Status.GREEN
    assert found["lake.write"].status is Status.RED
    assert "this user may write to" in found["lake.write"].remedy
    assert {found[f"lake.{name}"].status for name in ("list", "delete", "appends", "writers")} == {Status.SKIPPED}
    assert found["lake.clean"].status is Status.GREEN
    assert found["files.read"].status is Status.SKIPPED
    assert "file_index has no row yet" in found["files.read"].found


def test_missing_folder_is_noticed_tried_and_not_left_behind(ward):
    ward.env["DICOM_CONTAINER_NAME"] = "elsewhere"
    statuses = ward.statuses("lake")
    assert statuses.pop("lake.reach") == "yellow"
    assert set(statuses.values()) == {"green"}
    assert not (ward.folder / "elsewhere").exists()


def test_file_in_the_place_of_the_folder_is_red(ward):
    (ward.folder / "occupied").write_text("")
    ward.env["DICOM_CONTAINER_NAME"] = "occupied"
    assert ward.statuses("lake.reach")["lake.reach"] == "red"


def test_scratch_of_another_doctor_stays(ward):
    (ward.folder / "lake" / "_doctor" / "another").mkdir(parents=True)
    assert ward.statuses("lake")["lake.clean"] == "green"
    assert (ward.folder / "lake" / "_doctor" / "another").exists()


def test_trials_are_cleared_away_when_a_check_ends_unforeseen(ward, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(checks, "_write_row", fail)
    found = ward.examine("lake")
    assert found["lake.appends"].status is found["lake.writers"].status is Status.RED
    assert not (ward.folder / "lake" / "_doctor").exists()


def test_storage_that_writes_over_what_must_be_new_is_red(ward, monkeypatch):
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, name, content, mode="create": put(store, name, content))
    assert "written over" in ward.examine("lake.write")["lake.write"].found


def test_storage_that_lists_late_or_keeps_what_is_deleted_is_red(ward, monkeypatch):
    monkeypatch.setattr(obstore, "delete", lambda *_: None)
    assert ward.statuses("lake.delete")["lake.delete"] == "red"
    monkeypatch.setattr(checks, "_list_names", lambda _: [])
    assert ward.statuses("lake.list")["lake.list"] == "red"


def test_account_that_lists_logs_from_their_beginning_is_told_as_such(ward, monkeypatch):
    def refuse(*_):
        raise LakeUnavailableError("Could not open it: Invalid table version: 1. Check the role.")

    monkeypatch.setattr(checks, "_write_row", refuse)
    finding = ward.examine("lake.appends")["lake.appends"]
    assert finding.status is Status.RED
    assert "hierarchical namespace" in finding.remedy


def test_commits_whose_place_others_take_are_red_and_counted(ward, monkeypatch):
    """A storage without put-if-absent: the commit that comes last takes the place of the one before."""
    write, second = checks._write_row, threading.Event()

    def overwrite(storage, path, uid):
        if path == "writers" and uid == "2.25.3":
            assert second.wait(PATIENCE_SECONDS)
        written = write(storage, path, uid)
        if uid == "2.25.2":
            (Path(storage.url) / path / "_delta_log" / f"{written.version:020}.json").unlink()
            if path == "writers":
                second.set()
        return written

    monkeypatch.setattr(checks, "_write_row", overwrite)
    found = ward.examine("lake.appends", "lake.writers")
    for check in ("lake.appends", "lake.writers"):
        assert (found[check].status, found[check].facts["rows"]) == (Status.RED, 2)


def test_trials_that_cannot_be_taken_away_are_named(ward, monkeypatch):
    def refuse(_):
        raise LakeUnavailableError("Could not clear it away. Check the role.")

    monkeypatch.setattr(checks, "clear_away", lambda _: 1)
    finding = ward.examine("lake.write")["lake.clean"]
    assert finding.status is Status.YELLOW
    assert "_doctor/" in finding.found
    monkeypatch.setattr(checks, "clear_away", refuse)
    assert ward.examine("lake.write")["lake.clean"].why == "Could not clear it away"


def test_account_is_cleared_of_files_and_of_nothing_else(tmp_path):
    """The client of an account is tried here, with stores in a folder for those of an account."""
    for name in ("_doctor/1/probe", "_doctor/1/appends/_delta_log/0.json", "instance/part.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    class Account(Storage):
        def open_store(self, path):
            return LocalStore(tmp_path / self.url.partition(".net/")[2] / path)

    class Given:
        scratch_path = "_doctor/1"
        scratch = Account("abfss://c@account.dfs.core.windows.net/_doctor/1")
        lake = Lake(Account("abfss://c@account.dfs.core.windows.net/"), {})

    assert checks.clear_away(Given()) == 0
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["part.parquet"]


def files(ward):
    return ward.examine("files")["files.read"]


def test_newest_file_can_be_read(ward):
    finding = files(ward)
    assert (finding.status, finding.facts) == (Status.GREEN, {"sequence": 1})
    assert "1.2.3" not in finding.found


def test_file_system_that_is_not_set_is_yellow(ward):
    del ward.env["DICOM_FILE_SYSTEM_URL"]
    assert files(ward).status is Status.YELLOW


def test_file_that_is_no_dicom_file_is_red(ward):
    for file in (ward.folder / "files").rglob("*.dcm"):
        file.write_bytes(bytes(200))
    assert "has no DICM" in files(ward).found


def test_deleted_file_is_yellow_and_an_unreadable_file_system_is_red(ward):
    ward.service.delete("1.2")
    finding = files(ward)
    assert finding.status is Status.YELLOW
    assert "is gone, and the service has deleted it" in finding.found
    (ward.folder / "occupied").write_text("")
    ward.env["DICOM_FILE_SYSTEM_URL"] = str(ward.folder / "occupied")
    assert files(ward).status is Status.RED


def test_file_that_the_service_says_is_there_is_red_where_it_is_not(ward):
    ward.env["DICOM_FILE_SYSTEM_URL"] = str(ward.folder / "nowhere")
    finding = files(ward)
    assert finding.status is Status.RED
    assert finding.remedy == "Check that DICOM_FILE_SYSTEM_URL is its file system."


def test_newest_row_is_chosen_of_several(ward):
    newest = ward.service.store_metadata(metadata_of(instance="1.2.3.5"), at=START, write_file=True).sequence
    World(ward.service, build_lake(ward.folder / "lake")).run_chain(hours(0))
    assert files(ward).facts == {"sequence": newest}


def test_clearing_that_fails_is_red_and_no_crash(ward, monkeypatch):
    def fail(_):
        raise RuntimeError

    monkeypatch.setattr(checks, "clear_away", fail)
    assert ward.examine("lake.write")["lake.clean"].status is Status.RED
