import uuid
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from deltalake import write_deltalake

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import CHANGE_FEED, SERIES, TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.assets.freshness import allowed_lateness
from dicom_assets.defs.checks.checks import SPECS
from dicom_assets.defs.jobs.audit_lake import build_audit, build_freshness_job, build_watch
from dicom_assets.defs.partitions import PARTITION_FORMAT, build_partitions
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import entry
from dicom_assets_tests.lakes.building import build_lake, store
from dicom_assets_tests.law.world import derivation, hours

START = datetime(2026, 3, 1, tzinfo=UTC)
DELAY = timedelta(minutes=15)
HOURLY = build_partitions(START, None)
NAMES = [table.name for table in TABLES]
KEYS = [dg.AssetKey(name) for name in NAMES]


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = build_lake(tmp_path)
    store(lake, entry(1, filePath="a"), entry(2, sopInstanceUid="1.1.2"), table=CHANGE_FEED)
    for table in TABLES[1:]:
        lake.write(table, derivation(lake, table.name, hours(0)))
    return lake


def run(job: dg.JobDefinition, instance: dg.DagsterInstance) -> str | None:
    """Runs a job; what it fails with."""
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    failure = next((event.step_failure_data for event in result.all_events if event.is_step_failure), None)
    return None if failure is None else failure.user_failure_data.description


def checks(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    """The last evaluation of the first check of each asset, as the UI has it."""
    keys = {name: dg.AssetCheckKey(dg.AssetKey(name), specs[0].name) for name, specs in SPECS.items()}
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys.values()))
    return {name: records[key].event.asset_check_evaluation for name, key in keys.items() if key in records}


# The audit


def test_audit_of_a_right_lake_passes_and_tells_the_assets_checks(lake, instance):
    assert run(build_audit(lake, TABLES), instance) is None
    found = checks(instance)
    assert {name: each.passed for name, each in found.items()} == {table.name: True for table in TABLES}
    assert found["instance"].metadata["rows_expected"].value == 2
    assert found["file_index"].description == "Audit of all rows: all agree."


def test_audit_that_finds_something_fails_and_shows_at_the_asset(lake, instance):
    table = lake.open(SERIES)
    write_deltalake(table.connect(), table.read_table(), mode="append")
    message = run(build_audit(lake, TABLES), instance)
    assert message.startswith("The audit found rows that do not agree in series. Rows do not agree. Materialise")
    found = checks(instance)
    assert [name for name, each in found.items() if not each.passed] == ["series"]
    assert (found["series"].severity, found["series"].metadata["doubled"].value) == (dg.AssetCheckSeverity.ERROR, 1)


def test_audit_and_freshness_know_the_table_of_the_profile(lake, instance):
    tables = (*TABLES, HEALTHCARE_INSTANCE)
    lake.write(HEALTHCARE_INSTANCE, derivation(lake, HEALTHCARE_INSTANCE.name, hours(0)))
    lake.open(HEALTHCARE_INSTANCE).connect().delete("sopinstanceuid = '1.1.2'")
    assert "do not agree in healthcare_instance." in run(build_audit(lake, tables), instance)
    assert checks(instance)["healthcare_instance"].metadata["missing"].value == 1
    materialise(instance, *NAMES, hour="2026-03-01-00:00")
    _, fresh = (each.job for each in build_watch(lake, tables, HOURLY, DELAY, lambda: START + timedelta(hours=2)))
    assert run(fresh, instance).startswith("The hour 2026-03-01-00:00 is not in healthcare_instance 45 minutes")


def test_audit_beside_another_run_warns_and_does_not_fail(lake, instance):
    lake.open(SERIES).connect().delete()
    instance.add_run(dg.DagsterRun(job_name="hour", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED))
    assert run(build_audit(lake, TABLES), instance) is None
    found = checks(instance)["series"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "runs are under way" in found.description


# The newest hour


def is_late(instance: dg.DagsterInstance, now: datetime) -> str | None:
    return run(build_freshness_job(KEYS, HOURLY, allowed_lateness(DELAY), lambda: now), instance)


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
        (None, "No run is to bring it. Look at the last tick of the sensor catch_up, under Automation"),
        (dg.DagsterRunStatus.STARTED, "is to bring it, and waits or runs"),
        (dg.DagsterRunStatus.FAILURE, "was to bring it and did not succeed: mend what that says"),
    ],
)
def test_late_hour_is_told_with_the_run_that_should_have_brought_it(instance, status, said):
    materialise(instance, *NAMES[:4], hour="2026-03-01-05:00")
    run_id = ""
    if status is not None:

        @dg.asset(name="file_index", partitions_def=HOURLY)
        def last() -> None: ...

        job = dg.Definitions(assets=[last]).resolve_implicit_global_asset_job_def()
        tags = {"dagster/partition": "2026-03-01-05:00"}
        run_id = instance.create_run_for_job(job, tags=tags, status=status).run_id
    message = is_late(instance, START + timedelta(hours=6, minutes=50))
    assert message.startswith("The hour 2026-03-01-05:00 is not in file_index 45 minutes after its end. ")
    assert said in message
    assert run_id in message


def test_hour_that_has_not_ended_is_never_late(instance):
    early = dg.HourlyPartitionsDefinition(start_date=START, timezone="UTC", fmt=PARTITION_FORMAT, end_offset=1)
    job = build_freshness_job(KEYS, early, allowed_lateness(DELAY), lambda: START + timedelta(hours=2, minutes=50))
    assert run(job, instance).startswith("The hour 2026-03-01-01:00 is not in")
    materialise(instance, *NAMES, hour="2026-03-01-01:00")
    assert run(job, instance) is None


@pytest.mark.parametrize(("delay", "lateness"), [(0, 10), (5, 15), (15, 45), (60, 180)])
def test_lateness_is_the_delay_and_two_more(delay, lateness):
    assert allowed_lateness(timedelta(minutes=delay)) == timedelta(minutes=lateness)


def test_without_a_service_nobody_looks_for_late_hours(tmp_path):
    definitions = build_definitions(load_settings({"DICOM_STORAGE_URL": str(tmp_path)}))
    (schedule,) = (each for each in definitions.schedules or [] if each.name == "check_freshness_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_both_jobs_are_scheduled_and_switched_on(lake):
    schedules = build_watch(lake, TABLES, HOURLY, DELAY, lambda: START)
    assert {each.job_name: each.cron_schedule for each in schedules} == {
        "audit_lake": "40 3 * * *",
        "check_freshness": "46 * * * *",
    }
    for each in schedules:
        assert each.default_status is dg.DefaultScheduleStatus.RUNNING
        assert each.execution_timezone == "UTC"
