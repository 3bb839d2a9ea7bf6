"""How a range that failed, or was cancelled, goes on where it stopped.

A step that ends well tells Dagster of all its hours. One that does not tells of those that are in the lake by then: a
backfill that is retried from its failure leaves them out, and so does another attempt of the step.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from dicom_assets.core.change_feed import Window
from dicom_assets.defs.observed import Reading, Remaining
from dicom_assets.defs.partitions import check_hours, partition_key, to_window

_RESUMED = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")
"""Tags of a run that goes on "from failure"; one that was started anew reads every hour again."""


def find_remaining(context: dg.AssetExecutionContext, now: datetime) -> Remaining:
    """The run's hours, but for the first ones that an earlier attempt has brought into the lake.

    An hour that is still open ends now: what is read must hold still meanwhile.

    Raises:
        UnknownHourError: the run covers hours that are no partitions.
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
    """Tells Dagster which hours of a reading are in the lake, although the step will not end well."""
    for start, numbers in reading.describe_stored().items():
        key = partition_key(start)
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=dict(numbers)))


def _find_recorded(context: dg.AssetExecutionContext) -> dict[str, Mapping[str, Any]]:
    """Numbers by partition of the hours that earlier attempts have brought into the lake.

    Attempts of this run, and of the runs that it goes on from.
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
