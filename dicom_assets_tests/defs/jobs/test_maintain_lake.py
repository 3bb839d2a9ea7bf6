"""The job `maintain_lake`, run by Dagster."""

from datetime import date

import dagster as dg
import pytest

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import STUDY, TABLES
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.jobs.maintain_lake import build_upkeep_job
from dicom_assets.derive.repair import Repair
from dicom_assets.lake import upkeep as adapter
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.lakes.building import (
    as_before_calendars,
    build_lake,
    contents,
    data_files,
    live_files,
    store,
    study,
)

REAL = {"dry_run": False}


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = build_lake(tmp_path / "lake")
    for number in range(3):
        store(lake, study(f"1.2.826.{number}", patientName="Doe^Jane"))
    return lake


def run(lake: Lake, instance: dg.DagsterInstance, config=None) -> dg.ExecuteInProcessResult:
    return build_upkeep_job(Repair(lake, TABLES, None)).execute_in_process(
        instance=instance, run_config=config, raise_on_error=False
    )


def outputs(result: dg.ExecuteInProcessResult) -> dict[str, dict]:
    """Metadata by step."""
    return {
        event.step_key: {name: value.value for name, value in event.event_specific_data.metadata.items()}
        for event in result.all_events
        if event.is_successful_output
    }


def observations(instance: dg.DagsterInstance) -> list[dict]:
    records = instance.fetch_observations(dg.AssetKey("study"), limit=10).records
    return [{name: value.value for name, value in record.asset_observation.metadata.items()} for record in records]


def test_launched_by_hand_it_is_a_dry_run(lake, instance, tmp_path):
    before = contents(tmp_path)
    result = run(lake, instance)
    assert result.success
    assert contents(tmp_path) == before
    found = outputs(result)
    assert set(found) == {f"maintain_{table.name}" for table in TABLES}
    assert found["maintain_series"] == {"dry_run": True}
    told = found["maintain_study"]
    assert (told["dry_run"], told["files_joined"], told["files_joined_into"]) == (True, 3, 1)
    assert (told["table_files_before"], told["table_files"]) == (3, 1)
    summary = (
        "Dry run, nothing was changed. It would be: 3 files joined into 1; 0 files (0 bytes) and 0 log entries removed."
    )
    assert told["summary"].startswith(f"{summary} Versions can be read from 0 on, which is of 20")
    assert list(told)[:4] == ["dry_run", "summary", "oldest_version", "table_files"]
    assert any(entry.user_message == f"study: {told['summary']}" for entry in instance.all_logs(result.run_id))
    assert observations(instance) == []


def test_what_it_did_shows_at_the_asset(lake, instance):
    result = run(lake, instance, REAL)
    assert result.success
    assert len(live_files(lake)) == 1
    (observed,) = observations(instance)
    assert observed["summary"].startswith("3 files joined into 1; 0 files (0 bytes)")
    assert observed["table_version"] == lake.version(STUDY)
    assert observed["table_files"] == 1
    assert observed["stored_files"] == len(data_files(lake)) == 4
    assert observed["oldest_version"] == 0
    assert outputs(result)["maintain_study"] == {"dry_run": False, **observed}


def test_files_written_anew_for_spark_3_5_are_counted_at_the_asset(tmp_path, instance):
    lake = build_lake(tmp_path / "old")
    with as_before_calendars():
        store(lake, study("1.1", patientBirthDate=date(1, 1, 1)))
    assert run(lake, instance, REAL).success
    (observed,) = observations(instance)
    assert observed["files_marked_for_spark"] == 1
    assert "1 files with dates before 1582 written anew for Spark 3.5" in observed["summary"]
    assert run(lake, instance, REAL).success
    assert observations(instance)[0]["files_marked_for_spark"] == 0


def test_events_hold_no_patient(lake, instance):
    result = run(lake, instance, REAL)
    logged = " ".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert "Doe" not in logged
    assert "1.2.826." not in logged


def test_table_that_is_not_ours_fails_alone(lake, instance, tmp_path):
    (tmp_path / "lake" / "series").mkdir()
    (tmp_path / "lake" / "series" / "_delta_log").write_bytes(b"no folder")
    result = run(lake, instance, REAL)
    failed = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failed == ["maintain_series"]
    assert len(live_files(lake)) == 1


def test_what_writers_left_no_time_for_is_told(lake, instance, monkeypatch):
    monkeypatch.setattr(adapter, "ATTEMPTS", 0)
    result = run(lake, instance, REAL)
    assert result.success
    assert observations(instance)[0]["is_complete"] is False
    assert any("is left to the next run" in entry.user_message for entry in instance.all_logs(result.run_id))


def test_it_runs_daily_for_real_and_takes_its_turn_among_the_writers(tmp_path):
    settings = load_settings({"DICOM_STORAGE_URL": str(tmp_path), "DICOM_AUTHENTICATION": "none"})
    schedule = build_definitions(settings).resolve_schedule_def("maintain_lake_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("10 4 * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance, dg.build_schedule_context(instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.run_config == REAL
    nodes = schedule.job.graph.nodes
    assert {node.definition.pool for node in nodes} == {"dicom_lake"}


def test_project_has_the_job_and_its_schedule(tmp_path):
    env = {"DICOM_STORAGE_URL": str(tmp_path / "lake"), "DICOM_AUTHENTICATION": "none"}
    definitions = build_definitions(load_settings(env))
    assert definitions.resolve_schedule_def("maintain_lake_schedule").job_name == "maintain_lake"
    with dg.DagsterInstance.ephemeral() as instance:
        assert definitions.resolve_job_def("maintain_lake").execute_in_process(instance=instance).success
    assert not (tmp_path / "lake").exists()
