"""The job that fails if the newest due hour is missing, so that the alert on failed runs reports it.

The assets' freshness policy looks at the last materialization of any hour, so a backfill of old hours satisfies it.
This job checks the hour itself. It reads Dagster's history, not the tables, since an hour without changes has no rows
in them.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import dagster as dg

from dicom_assets.core.errors import LateHourError
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.checks.failure import fail
from dicom_assets.defs.history.hour_log import Attempt, HourLog
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.partitions import Hours, partition_key


def build_freshness_job(
    assets: Sequence[dg.AssetKey], hours: Hours, now: Callable[[], datetime], naming: Naming = PLAIN
) -> dg.JobDefinition:
    """Return the job that fails if the newest due hour is late.

    Args:
        assets: Assets that must have the hour.
        hours: The hours of the lake, and when each is due.
        now: Returns the current time, with a zone.
        naming: Names of the service's parts.
    """
    minutes = int(hours.lateness.total_seconds() // 60)

    @dg.op(name=naming.name("check_newest_hour"), out=dg.Out(dg.Nothing))
    def check_newest_hour(context: dg.OpExecutionContext) -> None:
        """Fail if an asset lacks the newest due hour; one query of Dagster's history per asset."""
        hour = hours.late_until(now()) - HOUR
        if hour < hours.first:
            context.log.info("No hour is due yet.")
            return
        key = partition_key(hour)
        late = [asset.to_user_string() for asset in assets if not _is_materialised(context.instance, asset, key)]
        if late:
            attempt = HourLog(context.instance, assets).look(now(), [hour]).unfinished.get(hour)
            fail(
                LateHourError(
                    f"The hour {key} is not in {', '.join(late)} {minutes} minutes after its end. "
                    f"{_explain_lateness(attempt, naming)}"
                )
            )
        context.log.info("The hour %s is in all tables.", key)

    @dg.job(
        name=naming.name("check_freshness"),
        executor_def=dg.in_process_executor,
        description=f"Fails if an asset lacks the newest hour that ended {minutes} minutes ago or longer.",
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
            f"No run of the hour was requested. Look at the last tick of the sensor {naming.catch_up_sensor}, under "
            "Automation: it says what it waits for, such as a service that does not answer, or it is switched off."
        )
    if attempt.in_flight:
        return f"Run {attempt.run_id} of the hour is queued or in progress: look at what it waits for or works on."
    return (
        f"Run {attempt.run_id} of the hour did not succeed: fix the cause that the run names. The hour is requested "
        "again automatically, less and less often; to have it at once, materialise it."
    )
