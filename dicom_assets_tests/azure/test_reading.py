"""`dicom-assets sql` and `changes` on a lake in an account of Azurite."""

import json
import subprocess

import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeUnavailableError, VersionGoneError
from dicom_assets.query.change_data import changes
from dicom_assets_tests.lakes.building import Wanted, store, study
from dicom_assets_tests.processes import clean_environment, run_command


@pytest.fixture
def environment(signing, lake_settings) -> dict[str, str]:
    environment = {**signing, **lake_settings}
    lake = build_lake(load_settings(environment))
    store(lake, study("1.1", patientName="Doe^Jo"), study("1.2"))
    store(lake, study("1.1", patientName="Roe^Jo"))
    lake.write(STUDY, Wanted([study("1.3")], gone=[study("1.2")]))
    return environment


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, env=clean_environment(**environment))


def rows(ran: subprocess.CompletedProcess[str]) -> list[dict]:
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("signing", ["account_key"], indirect=True)
def test_lake_in_azure_is_asked_with_sql_now_and_as_it_was(environment):
    sql = ("sql", "SELECT studyInstanceUid AS uid, patientName AS name FROM study ORDER BY 1", "--format", "jsonl")
    assert rows(run(environment, *sql)) == [{"uid": "1.1", "name": "Roe^Jo"}, {"uid": "1.3", "name": None}]
    assert rows(run(environment, *sql, "--table-version", "study=1")) == [
        {"uid": "1.1", "name": "Doe^Jo"},
        {"uid": "1.2", "name": None},
    ]


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_changes_of_a_lake_in_azure_go_on_from_a_state_file(environment, tmp_path):
    state = ("--state", str(tmp_path / "study.cursor"), "--format", "jsonl")
    first = rows(run(environment, "changes", "study", "--until", "1", *state))
    assert [row["_change_type"] for row in first] == ["insert", "insert"]
    found = {row["studyInstanceUid"]: row["_change_type"] for row in rows(run(environment, "changes", "study", *state))}
    assert found == {"1.1": "update_postimage", "1.2": "delete", "1.3": "insert"}


@pytest.mark.parametrize("signing", ["account_key"], indirect=True)
def test_vacuumed_files_in_azure_are_told(environment):
    settings = load_settings(environment)
    newest = build_lake(settings).open(STUDY)
    newest.connect().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(VersionGoneError, match="from version 3 on"):
        changes("study", 1, settings=settings)
    ran = run(environment, "sql", "SELECT * FROM study", "--table-version", "study=1", "--format", "csv")
    assert (ran.returncode, "Old versions can be read for" in ran.stderr) == (1, True)


@pytest.mark.parametrize("signing", ["account_key"], indirect=True)
def test_refusal_of_the_account_is_explained_by_both(environment):
    wrong = {**environment, "AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}
    ran = run(wrong, "sql", "SELECT * FROM study")
    assert ran.returncode == 1
    assert "AZURE_STORAGE_ACCOUNT_KEY" in ran.stderr
    assert "Traceback" not in ran.stderr
    with pytest.raises(LakeUnavailableError, match="AZURE_STORAGE_ACCOUNT_KEY"):
        changes("study", settings=load_settings(wrong))
