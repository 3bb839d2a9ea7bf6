"""The state of hours in Dagster's event log, which may grow while it is read."""

from datetime import UTC, datetime

import dagster as dg

from dicom_assets.defs.history import hour_log
from dicom_assets.defs.history.hour_log import HourLog
from dicom_assets.defs.partitions import build_partitions, partition_key

HOUR = datetime(2026, 3, 1, tzinfo=UTC)
KEY = dg.AssetKey("study")


def test_hour_that_a_run_materialises_while_the_log_is_read_is_not_missing(instance, monkeypatch):
    @dg.asset(partitions_def=build_partitions(HOUR, None))
    def study() -> None: ...

    job = dg.Definitions(assets=[study]).resolve_implicit_global_asset_job_def()
    tags = {"dagster/partition": partition_key(HOUR)}
    run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    log, now = HourLog(instance, [KEY]), datetime.now(UTC)
    seen = log.look(now)
    assert (seen.materialized, seen.unfinished[HOUR].run_id) == (set(), run.run_id)
    find_planned_runs = hour_log.find_planned_runs

    def materialize_meanwhile(*given):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=partition_key(HOUR)))
        return find_planned_runs(*given)

    monkeypatch.setattr(hour_log, "find_planned_runs", materialize_meanwhile)
    seen = log.look(now)
    assert (seen.materialized, seen.unfinished) == ({HOUR}, {})
