"""`dicom-assets maintain`."""

import io
from datetime import date

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from rich.console import Console

from dicom_assets.cli.maintain import maintain_all
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.derive.repair import Repair
from dicom_assets.lake import upkeep as adapter
from dicom_assets_tests.lakes.building import as_before_calendars, build_lake, contents, live_files, store, study
from dicom_assets_tests.processes import clean_environment, run_command


@pytest.fixture
def lake(tmp_path):
    lake = build_lake(tmp_path / "dicom")
    for number in range(3):
        store(lake, study(f"1.{number}", patientName="Doe^Jane"))
    return lake


def run(tmp_path, *arguments):
    return run_command("maintain", *arguments, env=clean_environment(DICOM_STORAGE_URL=str(tmp_path)))


def told(lake, *, dry_run=False):
    console = Console(width=160, record=True, file=io.StringIO())
    return maintain_all(console, Repair(lake, TABLES, None), dry_run=dry_run), console.export_text()


def cells(text: str, table: str) -> list[str]:
    line = next(line for line in text.splitlines() if f" {table} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_dry_run_tells_what_the_command_then_does(lake, tmp_path):
    before = contents(tmp_path)
    planned = run(tmp_path, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "Dry run" in planned.stdout
    assert contents(tmp_path) == before
    done = run(tmp_path)
    assert done.returncode == 0
    assert cells(planned.stdout, "study")[1:4] == cells(done.stdout, "study")[1:4] == ["3 into 1", "none", "3 → 1"]
    assert cells(done.stdout, "series")[1] == "no table yet"
    assert "(version 0)" in done.stdout
    assert "720 hours" in done.stdout
    assert "Doe" not in planned.stdout + done.stdout
    assert len(live_files(lake)) == 1


def test_files_written_anew_for_spark_3_5_are_told_and_only_then(tmp_path):
    lake = build_lake(tmp_path / "dicom")
    with as_before_calendars():
        store(lake, study("1.1", patientBirthDate=date(1, 1, 1)))
    for dry_run, said in ((True, "study: 1 files would be"), (False, "study: 1 files were")):
        status, text = told(lake, dry_run=dry_run)
        assert status == 0
        assert said in text
    assert "Spark" not in told(lake)[1]


def test_table_that_is_not_ours_is_told_and_the_others_are_maintained(lake, tmp_path):
    rows = pa.table({"studyInstanceUid": ["1"], "dt": ["2026-03-01"]})
    write_deltalake(tmp_path / "dicom" / "instance", rows, partition_by=["dt"])
    status, text = told(lake)
    assert status == 1
    assert "Error: instance: The table at" in text
    assert len(live_files(lake)) == 1


def test_what_writers_left_no_time_for_is_told(lake, monkeypatch):
    monkeypatch.setattr(adapter, "ATTEMPTS", 0)
    status, text = told(lake)
    assert status == 1
    assert "study: writers were quicker. Run this again" in text
