"""The job `check_freshness`, run by Dagster, and when it and the other jobs of the whole lake run."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.jobs.check_freshness import build_freshness_job
from dicom_assets.defs.partitions import Hours, build_partitions

START = datetime(2026, 3, 1, tzinfo=UTC)
DELAY = timedelta(minutes=15)
HOURS = Hours(START, None, DELAY)
NAMES = [table.name for table in TABLES]
KEYS = [dg.AssetKey(name) for name in NAMES]


def run(job: dg.JobDefinition, instance: dg.DagsterInstance) -> str | None:
    """Runs a job; what it fails with."""
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    failure = next((event.step_failure_data for event in result.all_events if event.is_step_failure), None)
    return None if failure is None else failure.user_failure_data.description


def is_late(instance: dg.DagsterInstance, now: datetime) -> str | None:
    return run(build_freshness_job(KEYS, HOURS, lambda: now), instance)


def materialise(instance: dg.DagsterInstance, *names: str, hour: str) -> None:
    for name in names:
        instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=hour))


def test_hour_may_be_missing_for_three_delays_after_its_end(instance):
    assert is_late(instance, START + timedelta(minutes=60 + 44)) is None
    message = is_late(instance, START + timedelta(minutes=60 + 45))
    assert message.startswith(
        "The hour 2026-03-01-00:00 is not in change_feed, instance, series, study, file_index 45 minutes after its end."
    )


def test_late_hour_is_named_with_the_assets_that_lack_it(instance):
    now = START + timedelta(hours=6, minutes=50)
    materialise(instance, *NAMES, hour="2026-03-01-04:00")
    materialise(instance, *NAMES[:3], hour="2026-03-01-05:00")
    assert is_late(instance, now).startswith("The hour 2026-03-01-05:00 is not in study, file_index 45 minutes")
    materialise(instance, *NAMES[3:], hour="2026-03-01-05:00")
    assert is_late(instance, now) is None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (None, "the sensor catch_up"),
        (dg.DagsterRunStatus.STARTED, "in progress"),
        (dg.DagsterRunStatus.FAILURE, "did not succeed"),
    ],
)
def test_late_hour_is_told_with_the_run_that_should_have_brought_it(instance, status, said):
    materialise(instance, *NAMES[:4], hour="2026-03-01-05:00")
    run_id = ""
    if status is not None:

        @dg.asset(name="file_index", partitions_def=build_partitions(START, None))
        def last() -> None: ...

        job = dg.Definitions(assets=[last]).resolve_implicit_global_asset_job_def()
        tags = {"dagster/partition": "2026-03-01-05:00"}
        run_id = instance.create_run_for_job(job, tags=tags, status=status).run_id
    message = is_late(instance, START + timedelta(hours=6, minutes=50))
    assert message.startswith("The hour 2026-03-01-05:00 is not in file_index 45 minutes after its end. ")
    assert said in message
    assert run_id in message


def test_hour_that_has_not_ended_is_never_late(instance):
    now = START + timedelta(hours=2, minutes=50)
    assert is_late(instance, now).startswith("The hour 2026-03-01-01:00 is not in")
    materialise(instance, *NAMES, hour="2026-03-01-01:00")
    assert is_late(instance, now) is None


def test_after_the_last_hour_of_the_lake_none_is_late(instance):
    job = build_freshness_job(KEYS, Hours(START, START + timedelta(hours=1), DELAY), lambda: START + timedelta(days=1))
    materialise(instance, *NAMES, hour="2026-03-01-00:00")
    assert run(job, instance) is None


@pytest.mark.parametrize(("delay", "lateness"), [(0, 10), (5, 15), (15, 45), (60, 180)])
def test_lateness_is_the_delay_and_two_more(delay, lateness):
    assert Hours(START, None, timedelta(minutes=delay)).lateness == timedelta(minutes=lateness)


def test_without_a_service_nobody_looks_for_late_hours(tmp_path):
    definitions = build_definitions(load_settings({"DICOM_STORAGE_URL": str(tmp_path)}))
    (schedule,) = (each for each in definitions.schedules or [] if each.name == "check_freshness_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_jobs_of_the_whole_lake_are_scheduled_and_switched_on(tmp_path):
    env = {"DICOM_STORAGE_URL": str(tmp_path), "DICOM_SERVICE_URL": "https://dicom.example.org"}
    settings = load_settings(env | {"DICOM_START_TIME": "2026-03-01T00:00Z", "DICOM_AUTHENTICATION": "none"})
    schedules = list(build_definitions(settings).schedules or [])
    assert {each.job_name: each.cron_schedule for each in schedules} == {
        "audit_lake": "40 3 * * *",
        "check_freshness": "46 * * * *",
        "maintain_lake": "10 4 * * *",
    }
    for each in schedules:
        assert each.default_status is dg.DefaultScheduleStatus.RUNNING
        assert each.execution_timezone == "UTC"
