"""Resume a range that failed or was cancelled at the hour where it stopped.

A successful step materialises all its hours in Dagster. A step that fails materialises the hours that are in the lake
by then: a backfill that is retried from its failure skips these hours, and so does another attempt of the step.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from dicom_assets.core.tables.change_feed import Window
from dicom_assets.defs.partitions import check_hours, partition_key, to_window
from dicom_assets.defs.runs.observed import Reading, Remaining

_RESUMED = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")
"""Tags of a run that was re-executed "from failure"; a run that was started anew reads every hour again."""


def find_remaining(context: dg.AssetExecutionContext, now: datetime) -> Remaining:
    """Return the run's hours, without the first ones that an earlier attempt has stored in the lake.

    At least one hour remains. An hour that is still open is read up to `now`, since the window must not change while it
    is read.

    Args:
        context: Context of the asset's step.
        now: The current time, with a zone.

    Raises:
        UnknownHourError: The run covers hours that are not partitions.
    """
    check_hours(context.partition_key_range, context.assets_def.partitions_def)
    whole = to_window(context.partition_time_window)
    recorded = _find_recorded(context)
    earlier: dict[datetime, Mapping[str, Any]] = {}
    hours = list(whole.hours())
    while len(hours) > 1 and (key := partition_key(hours[0].start)) in recorded:
        earlier[hours.pop(0).start] = recorded[key]
    start = hours[0].start
    return Remaining(Window(start, now if start < now < whole.end else whole.end), earlier)


def record_hours(context: dg.OutputContext, reading: Reading) -> None:
    """Log materializations for the hours of a reading that are in the lake, although the step fails."""
    for start, numbers in reading.describe_stored().items():
        key = partition_key(start)
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=dict(numbers)))


def _find_recorded(context: dg.AssetExecutionContext) -> dict[str, Mapping[str, Any]]:
    """Return the metadata, by partition, of the hours that earlier attempts have stored in the lake.

    Earlier attempts are those of this run, and of the failed runs that it was re-executed from.
    """
    run: dg.DagsterRun | None = context.run
    runs = [context.run] if context.retry_number else []
    while run and run.parent_run_id and any(run.tags.get(tag) == "true" for tag in _RESUMED):
        run = context.instance.get_run_by_id(run.parent_run_id)
        runs += [run] if run else []
    events = (
        entry.asset_materialization
        for run in runs
        for entry in context.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    )
    return {
        event.partition: event.metadata
        for event in events
        if event and event.partition and event.asset_key == context.asset_key
    }
