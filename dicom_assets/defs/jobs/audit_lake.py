"""Jobs that check the whole lake: the nightly audit of all rows, and the hourly check of the newest hour.

They are jobs, not asset checks, since an asset check runs whenever its asset is materialised, and reading every key of
the lake would slow each hour's run. A job that finds a fault fails, so that the alert on failed runs reports it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import dagster as dg

from dicom_assets.core.columns.schema import CHANGE_FEED, Table
from dicom_assets.core.errors import DicomAssetsError, DisagreementError, LakeLostError, LateHourError
from dicom_assets.defs.assets.freshness import allowed_lateness
from dicom_assets.defs.automation.catch_up import NAME as CATCH_UP
from dicom_assets.defs.checks.checks import METADATA_READABLE, SPECS, check_metadata, describe_agreement
from dicom_assets.defs.checks.failure import fail
from dicom_assets.defs.checks.same_lake import REMEDY, find_lost_hours, require_same_lake
from dicom_assets.defs.history.hour_log import Attempt, HourLog
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.partitions import partition_key
from dicom_assets.derive.agreement import audit
from dicom_assets.derive.heal import Healed
from dicom_assets.lake.table.delta import Lake

AUDIT_AT = "40 3 * * *"


def build_watch(
    lake: Lake,
    tables: Sequence[Table],
    partitions: dg.HourlyPartitionsDefinition,
    delay: timedelta,
    now: Callable[[], datetime],
    *,
    has_service: bool = True,
    ask_again: Callable[[], Healed] | None = None,
    naming: Naming = PLAIN,
) -> Sequence[dg.ScheduleDefinition]:
    """Return the schedules of the two jobs.

    Args:
        lake: The lake that holds the tables.
        tables: All tables of the lake.
        partitions: The hours.
        delay: Wait between the end of an hour and its reading.
        now: Returns the current time, with a zone.
        has_service: Whether a service is configured; without one no hour can be late, and the hourly check is off.
        ask_again: Requests metadata that the service could not give before; None to skip this.
        naming: Names of the service's parts.
    """
    lateness = allowed_lateness(delay)
    minute = (int(lateness.total_seconds() // 60) + 1) % 60
    keys = [naming.key(table) for table in tables]
    schedules = [
        (AUDIT_AT, build_audit(lake, tables, naming, ask_again), True),
        (
            f"{minute} * * * *",
            build_freshness_job(keys, partitions, lateness, now, naming=naming),
            has_service,
        ),
    ]
    return [
        dg.ScheduleDefinition(
            job=job,
            cron_schedule=cron,
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
            description=job.description,
        )
        for cron, job, running in schedules
    ]


def build_audit(
    lake: Lake, tables: Sequence[Table], naming: Naming = PLAIN, ask_again: Callable[[], Healed] | None = None
) -> dg.JobDefinition:
    """Return the job that compares every row with its source rows, and reports to the checks of the assets."""

    @dg.op(name=naming.name("audit_all_rows"), out=dg.Out(dg.Nothing))
    def audit_all_rows(context: dg.OpExecutionContext) -> None:
        """Read all keys, some files at a time; write only metadata that the service could not give before."""
        try:
            require_same_lake(context.instance, lake, tables, naming)
        except LakeLostError as error:
            fail(error)
        if ask_again is not None:
            _heal(context, ask_again, naming)
        lost = _describe_lost(find_lost_hours(context.instance, lake, naming))
        found = audit(lake, tables)
        disagreeing = [name for name, agreement in found.items() if not agreement.is_complete]
        busy = bool(disagreeing) and _is_another_run_under_way(context, naming)
        for name, agreement in found.items():
            description = "Audit of all rows: " + ("all agree." if agreement.is_complete else _explain(busy))
            context.instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=naming.key(name),
                    check_name=SPECS[name][0].name,
                    passed=agreement.is_complete,
                    severity=dg.AssetCheckSeverity.WARN if busy else dg.AssetCheckSeverity.ERROR,
                    description=description,
                    metadata=describe_agreement(agreement),
                )
            )
            context.log.info("%s: %s %s", name, description, describe_agreement(agreement))
        if lost:
            fail(LakeLostError(f"{lost} {REMEDY}"))
        if disagreeing and not busy:
            fail(
                DisagreementError(
                    f"The audit found rows that do not agree in {', '.join(disagreeing)}. {_explain(busy)}"
                ),
                {name: describe_agreement(found[name]) for name in disagreeing},
            )

    @dg.job(
        name=naming.name("audit_lake"),
        description="Holds all rows of the lake against those they are made from, and against what Dagster has seen "
        "stored. Reads every key, so it takes minutes where there are tens of millions of instances. What it finds "
        "shows at the assets' checks.",
    )
    def audit_lake() -> None:
        audit_all_rows()

    return audit_lake


def _heal(context: dg.OpExecutionContext, ask_again: Callable[[], Healed], naming: Naming) -> None:
    """Request metadata that the service could not give before, and report the entries that still lack it."""
    try:
        healed = ask_again()
    except DicomAssetsError as error:
        context.log.warning("The service could not be asked for metadata that is missing. %s", error)
        return
    if healed.healed:
        context.log.info("%d entries had no usable metadata, and have it now.", healed.healed)
    result = check_metadata(len(healed.unreadable), healed.unreadable, healed=healed.healed)
    context.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=naming.key(CHANGE_FEED.name),
            check_name=METADATA_READABLE,
            passed=result.passed,
            severity=result.severity,
            description=f"Audit: {result.description}",
            metadata=result.metadata,
        )
    )


def build_freshness_job(
    assets: Sequence[dg.AssetKey],
    partitions: dg.HourlyPartitionsDefinition,
    lateness: timedelta,
    now: Callable[[], datetime],
    *,
    naming: Naming = PLAIN,
) -> dg.JobDefinition:
    """Return the job that fails if the newest due hour is late.

    The assets' freshness policy looks at the last materialization of any hour, so a backfill of old hours satisfies it.
    This job checks the hour itself. It reads Dagster's history, not the tables, since an hour without changes has no
    rows in them.

    Args:
        assets: Assets that must have the hour.
        partitions: The hours.
        lateness: Time after its end from which a missing hour is late.
        now: Returns the current time, with a zone.
        naming: Names of the service's parts.
    """
    minutes = int(lateness.total_seconds() // 60)

    @dg.op(name=naming.name("check_newest_hour"), out=dg.Out(dg.Nothing))
    def check_newest_hour(context: dg.OpExecutionContext) -> None:
        """Fail if an asset lacks the newest due hour; one query of Dagster's history per asset."""
        due = now() - lateness
        with dg.partition_loading_context(effective_dt=due):
            window = partitions.get_last_partition_window()
            while window is not None and window.end > due:  # the last partition may be an hour that is still open
                window = partitions.get_prev_partition_window(window.start)
        if window is None:
            context.log.info("No hour is due yet.")
            return
        hour = partition_key(window.start)
        late = [key.to_user_string() for key in assets if not _is_materialised(context.instance, key, hour)]
        if late:
            attempt = HourLog(context.instance, assets).look(now(), [window.start]).unfinished.get(window.start)
            fail(
                LateHourError(
                    f"The hour {hour} is not in {', '.join(late)} {minutes} minutes after its end. "
                    f"{_explain_lateness(attempt, naming)}"
                )
            )
        context.log.info("The hour %s is in.", hour)

    @dg.job(
        name=naming.name("check_freshness"),
        description=f"Fails where the newest hour that ended {minutes} minutes ago or longer is missing in an asset.",
    )
    def check_freshness() -> None:
        check_newest_hour()

    return check_freshness


def _is_materialised(instance: dg.DagsterInstance, asset: dg.AssetKey, hour: str) -> bool:
    wanted = dg.AssetRecordsFilter(asset, asset_partitions=[hour])
    return bool(instance.fetch_materializations(wanted, limit=1).records)


def _explain_lateness(attempt: Attempt | None, naming: Naming) -> str:
    if attempt is None:
        return (
            f"No run is to bring it. Look at the last tick of the sensor {naming.name(CATCH_UP)}, under Automation: it "
            "says what is waited for, such as a service that does not answer, or that the sensor is switched off."
        )
    if attempt.in_flight:
        return f"Run {attempt.run_id} is to bring it, and waits or runs: look what it waits for, or is busy with."
    return (
        f"Run {attempt.run_id} was to bring it and did not succeed: mend what that says. The hour is asked for again "
        "by itself, less and less often; to have it at once, materialise it."
    )


def _describe_lost(hours: list[datetime]) -> str | None:
    if not hours:
        return None
    first, last = (f"{hour:%Y-%m-%d %H:%MZ}" for hour in (hours[0], hours[-1]))
    return (
        f"change_feed lacks entries that were stored, of {len(hours):,} hours between {first} and {last}: they were "
        "deleted, or the table is another one, or restored to an earlier version."
    )


def _explain(busy: bool) -> str:
    if busy:
        return "Rows do not agree, but runs are under way that may be about to mend it. Run the audit again later."
    return (
        "Rows do not agree. Materialise the asset for the hours that were materialised upstream; if that does not "
        "help, for all hours."
    )


def _is_another_run_under_way(context: dg.OpExecutionContext, naming: Naming) -> bool:
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    runs = context.instance.get_runs(dg.RunsFilter(statuses=statuses))
    return any(run.run_id != context.run_id and naming.owns(run) for run in runs)
