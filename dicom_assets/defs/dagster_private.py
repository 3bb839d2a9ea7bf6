"""Everything that the project uses of Dagster's private modules and storage, each with the reason.

No other module imports from a module of Dagster whose name begins with an underscore (`test_house.py`). A new version
of Dagster may change any of this without notice: look here first.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

# A run launcher must return these two from `check_run_worker_health`; Dagster exports the launcher alone.
from dagster._core.launcher.base import CheckRunHealthResult as CheckRunHealthResult  # noqa: PLC0414 - exported
from dagster._core.launcher.base import WorkerStatus as WorkerStatus  # noqa: PLC0414 - exported

if TYPE_CHECKING:
    from dagster._core.execution.backfill import PartitionBackfill

GRPC_INFO_TAG = ".dagster/grpc_info"
"""Tag of a run that a code server executes, with the server's address as JSON."""


def is_executing(run_id: str, *, host: str, port: int, use_ssl: bool, timeout_seconds: int) -> bool:
    """Return whether a code server executes a run; only Dagster's private gRPC client asks a code server that.

    The client is imported here since most processes that have a run launcher never need it.

    Raises:
        dagster.DagsterError: The server does not answer.
    """
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult

    client = DagsterGrpcClient(host=host, port=port, use_ssl=use_ssl)
    answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=timeout_seconds)
    return dg.deserialize_value(answer, CanCancelExecutionResult).can_cancel


def get_unfinished_backfills(instance: dg.DagsterInstance) -> "Sequence[PartitionBackfill]":
    """Return the backfills that have not ended.

    `get_backfills` without a filter, whose classes are private, would load every backfill that ever was. The import
    loads about half of Dagster, which a run does not need.
    """
    from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

    unfinished = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    return instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished))


def report_in_batch(instance: dg.DagsterInstance, events: Sequence[dg.AssetMaterialization], batch: str) -> None:
    """Store materializations that belong to no run, together.

    The public `report_runless_asset_event` stores each event in a transaction of its own. On Postgres with
    DAGSTER_EVENT_BATCH_SIZE=200 an event takes 13 ms in a batch, and 35 ms alone. `batch` names the batch.
    """
    from dagster._core.events import DagsterEventBatchMetadata, StepMaterializationData

    for number, event in enumerate(events, start=1):
        instance.report_dagster_event(
            dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
                event_specific_data=StepMaterializationData(event),
                job_name="",
            ),
            run_id="",
            batch_metadata=DagsterEventBatchMetadata(batch, is_end=number == len(events)),
        )


def find_newest_events(
    instance: dg.DagsterInstance, asset: dg.AssetKey, kind: dg.DagsterEventType, keys: Collection[str] | None
) -> Mapping[str, int]:
    """Return the storage id of an asset's newest event of a kind, by partition; newer events have greater ids.

    The public API returns events one by one, with their metadata. `keys` are partitions; None means all of them.
    """
    if keys is not None and not keys:
        return {}
    partitions = None if keys is None else set(keys)
    return instance.event_log_storage.get_latest_storage_id_by_partition(asset, kind, partitions)


def find_data_versions(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str]) -> Mapping[str, str]:
    """Return the data version of the newest materialization by partition, of the partitions that have one.

    The public API returns events one by one, with their metadata.
    """
    tag, kind = "dagster/data_version", dg.DagsterEventType.ASSET_MATERIALIZATION
    tags = instance.event_log_storage.get_latest_tags_by_partition(asset, kind, [tag], keys)
    return {key: of_event[tag] for key, of_event in tags.items() if tag in of_event}


def find_planned_runs(instance: dg.DagsterInstance, asset: dg.AssetKey, since: int) -> Mapping[str, tuple[str, int]]:
    """Return the run id and storage id of the newest planned materialization, by partition not materialised since.

    The public API does not return planned materializations. `since` is the storage id of the oldest event that counts.
    """
    return instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
        asset, after_storage_id=since - 1
    )


def get_step_tags(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Mapping[str, object]]:
    """Return the tags of a run's job by step, as the code location that requested the run had them.

    Dagster stores them with the run; the public API returns only the run's own tags.
    """
    if run.job_snapshot_id is None:
        return {}
    steps = instance.get_job_snapshot(run.job_snapshot_id).node_defs_snapshot.op_def_snaps
    return {step.name: step.tags for step in steps}
