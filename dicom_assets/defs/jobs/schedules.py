"""Schedules of the jobs that run by the clock: the audit, the check of the newest hour, and upkeep."""

from functools import partial
from typing import Any

import dagster as dg

from dicom_assets.defs.jobs.audit_lake import build_audit
from dicom_assets.defs.jobs.check_freshness import build_freshness_job
from dicom_assets.defs.jobs.maintain_lake import build_upkeep_job
from dicom_assets.defs.pipeline import Pipeline
from dicom_assets.derive.heal import heal

AUDIT_AT = "40 3 * * *"
UPKEEP_AT = "10 4 * * *"


def build_schedules(pipeline: Pipeline) -> list[dg.ScheduleDefinition]:
    """Return the schedules. Without a service no hour can be late, and the check of the newest hour is off."""
    lake, naming = pipeline.lake, pipeline.naming
    ask_again = partial(heal, pipeline.repair, pipeline.open_client, pipeline.now) if pipeline.has_service else None
    minute = (int(pipeline.hours.lateness.total_seconds() // 60) + 1) % 60
    freshness = build_freshness_job(pipeline.keys, pipeline.hours, pipeline.now, naming)
    running = pipeline.automation == "running"
    upkeep = build_upkeep_job(pipeline.repair, naming)
    return [
        _schedule(build_audit(lake, pipeline.settings.tables, naming, ask_again), AUDIT_AT, running=running),
        _schedule(freshness, f"{minute} * * * *", running=running and pipeline.has_service),
        _schedule(upkeep, UPKEEP_AT, running=running, run_config={"dry_run": False}),
    ]


def _schedule(job: dg.JobDefinition, cron: str, *, running: bool, **options: Any) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description=job.description,
        **options,
    )
