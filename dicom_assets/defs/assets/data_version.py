"""Data version of a materialization: changes only if a run changed rows, so that automation downstream sees no more.

Without a version of its own an asset gets one from Dagster, which differs at every materialization: the open hour, read
again each minute, would count as changed each minute.

Limits: Dagster stores one data version per step, so all hours of a range have the version of their run. A run that
finds its rows in the table keeps the earlier version, except where an attempt before it may have written them.
"""

from collections.abc import Iterable

import dagster as dg

from dicom_assets.defs.dagster_private import find_data_versions
from dicom_assets.defs.naming import ATTEMPT_TAG
from dicom_assets.lake.table.writing import Written


def set_data_version(context: dg.OutputContext, results: list[Written]) -> None:
    """Set the data version of an output: the table's id and version, or the earlier one if nothing was committed.

    Args:
        context: Output whose rows are stored.
        results: The output's writes, in order.
    """
    step = context.step_context
    run = step.dagster_run
    is_retry = step.previous_attempt_count or run.parent_run_id or ATTEMPT_TAG in run.tags
    earlier: Iterable[str] = ()
    if context.has_asset_partitions and not is_retry and not any(result.commits for result in results):
        earlier = find_data_versions(step.instance, context.asset_key, context.asset_partition_keys).values()
    last = results[-1]
    version = max(earlier, key=_order, default=f"{last.table_id}@{last.version}")
    step.set_data_version(context.asset_key, dg.DataVersion(version))


def _order(version: str) -> int:
    """Return the table's version in a data version; -1 for a data version that is not one of this project's."""
    number = version.rpartition("@")[2]
    return int(number) if number.isdecimal() else -1
