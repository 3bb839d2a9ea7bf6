import uuid

import dagster as dg
import pytest
from deltalake import write_deltalake

from dicom_assets.core.columns.schema import CHANGE_FEED, SERIES, TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.checks.specs import CHECKS
from dicom_assets.defs.jobs.audit_lake import build_audit
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import entry
from dicom_assets_tests.lakes.building import build_lake, store
from dicom_assets_tests.law.world import derivation, hours


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
    keys = {name: dg.AssetCheckKey(dg.AssetKey(name), found[0].name) for name, found in CHECKS.items()}
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys.values()))
    return {name: records[key].event.asset_check_evaluation for name, key in keys.items() if key in records}


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


def test_audit_knows_the_table_of_the_profile(lake, instance):
    tables = (*TABLES, HEALTHCARE_INSTANCE)
    lake.write(HEALTHCARE_INSTANCE, derivation(lake, HEALTHCARE_INSTANCE.name, hours(0)))
    lake.open(HEALTHCARE_INSTANCE).connect().delete("sopinstanceuid = '1.1.2'")
    assert "do not agree in healthcare_instance." in run(build_audit(lake, tables), instance)
    assert checks(instance)["healthcare_instance"].metadata["missing"].value == 1


def test_audit_beside_another_run_warns_and_does_not_fail(lake, instance):
    lake.open(SERIES).connect().delete()
    instance.add_run(dg.DagsterRun(job_name="hours", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED))
    assert run(build_audit(lake, TABLES), instance) is None
    found = checks(instance)["series"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "runs are under way" in found.description


@pytest.mark.parametrize(
    "foreign",
    [
        dg.DagsterRun("nightly"),
        dg.DagsterRun("nightly", asset_selection=frozenset({dg.AssetKey(["research", "series"])})),
    ],
    ids=["job", "asset"],
)
def test_audit_beside_a_run_of_others_fails(lake, instance, foreign):
    lake.open(SERIES).connect().delete()
    instance.add_run(foreign.with_status(dg.DagsterRunStatus.STARTED))
    assert "rows that do not agree in series" in run(build_audit(lake, TABLES), instance)
