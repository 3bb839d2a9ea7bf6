"""Everything that the tests import from Dagster's private modules, each with the reason.

No other test imports from a module of Dagster whose name begins with an underscore (`test_house.py`). What only some
tests need is imported late, since it takes as long to load as the rest of Dagster.
"""

from types import ModuleType

import dagster as dg
from dagster._core.test_utils import freeze_time as freeze_time  # noqa: PLC0414 - Dagster reads its clock through this


def add_backfill(
    instance: dg.DagsterInstance, definitions: dg.Definitions, asset: str, first: str, last: str, *, at: float
):
    """A backfill that has no run yet; GraphQL, the public way, needs a running webserver."""
    from dagster._core.definitions.selector import (
        PartitionRangeSelector,
        PartitionsByAssetSelector,
        PartitionsSelector,
    )
    from dagster._core.execution.backfill import PartitionBackfill

    partitions = PartitionsSelector(ranges=[PartitionRangeSelector(start=first, end=last)])
    backfill = PartitionBackfill.from_partitions_by_assets(
        "by_hand",
        definitions.get_repository_def().asset_graph,
        backfill_timestamp=at,
        tags={},
        dynamic_partitions_store=instance,
        partitions_by_assets=[PartitionsByAssetSelector(asset_key=dg.AssetKey(asset), partitions=partitions)],
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill


def end_backfill(instance: dg.DagsterInstance, backfill, status: str) -> None:
    """Gives a backfill the status of this name, as the daemon does."""
    from dagster._core.execution.backfill import BulkActionStatus

    instance.update_backfill(backfill.with_status(BulkActionStatus[status]))


def validate_home(folder: str):
    """A reference to the instance of a home, once Dagster has accepted its dagster.yaml; nothing of it is opened."""
    from dagster._core.instance.config import dagster_instance_config
    from dagster._core.instance.ref import InstanceRef

    config, _ = dagster_instance_config(folder)
    return config, InstanceRef.from_dir(folder)


def import_sqlite_storages() -> list[ModuleType]:
    """The modules that open a connection to SQLite for every statement, for `quick_sqlite.py` to patch."""
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

    return [sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage]


def import_daemon() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The daemon's controller, its sensors and its command line, for daemons that are patched."""
    from dagster._daemon import cli, controller, sensor

    return controller, sensor, cli
