"""Dagster told of hours that are in the lake already, as if it had materialised them itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata, DagsterEventType, StepMaterializationData
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID

from dicom_assets.defs.hour_log import HourLog
from dicom_assets.defs.observed import ROW_COUNT
from dicom_assets.defs.partitions import parse_key, partition_key
from dicom_assets.defs.same_lake import TABLE_ID, TABLE_VERSION

HOURS_AT_ONCE = 24
"""Of which Dagster is told together where it stores events in batches, as on Postgres (DAGSTER_EVENT_BATCH_SIZE)."""


@dataclass(frozen=True)
class Adoption:
    """What Dagster is to be told of one asset."""

    asset: dg.AssetKey
    hours: frozenset[datetime]
    version: int
    table_id: str
    entries: Mapping[datetime, int] | None = None
    """By hour, of the asset that counts them: late entries are found by it."""

    def tell_of(self, hour: datetime) -> dg.AssetMaterialization:
        """The event of an hour."""
        metadata: dict[str, Any] = {"adopted": True, TABLE_VERSION: self.version, TABLE_ID: self.table_id}
        if self.entries is not None:
            metadata[ROW_COUNT] = self.entries.get(hour, 0)
        return dg.AssetMaterialization(
            self.asset,
            partition=partition_key(hour),
            metadata=metadata,
            description="The hour was in the lake already: dicom-assets adopt.",
        )


def find_known(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[datetime]:
    """The hours for which Dagster takes an asset for materialised."""
    return {hour for key in instance.get_materialized_partitions(asset) if (hour := _parse(key))}


def find_busy(instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], now: datetime) -> set[datetime]:
    """Hours of runs that wait or run."""
    unfinished = HourLog(instance, assets).look(now).unfinished
    return {hour for hour, attempt in unfinished.items() if attempt.in_flight}


def forget(instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey]) -> None:
    """Takes every hour of the assets out of what Dagster knows; runs and their logs stay."""
    instance.wipe_assets(assets)


def tell(instance: dg.DagsterInstance, adoptions: Sequence[Adoption]) -> Iterator[int]:
    """Tells Dagster of some hours at a time, newest first, and gives how many are done."""
    hours = sorted(frozenset[datetime]().union(*(each.hours for each in adoptions)), reverse=True)
    for at in range(0, len(hours), HOURS_AT_ONCE):
        group = hours[at : at + HOURS_AT_ONCE]
        events = [each.tell_of(hour) for hour in group for each in adoptions if hour in each.hours]
        batch = f"adopt {partition_key(group[0])}"
        for number, event in enumerate(events, start=1):
            _report(instance, event, DagsterEventBatchMetadata(batch, is_end=number == len(events)))
        yield at + len(group)


def _report(instance: dg.DagsterInstance, event: dg.AssetMaterialization, batch: DagsterEventBatchMetadata) -> None:
    """As `report_runless_asset_event` does, which stores every event by itself."""
    instance.report_dagster_event(
        DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            event_specific_data=StepMaterializationData(event),
            job_name=RUNLESS_JOB_NAME,
        ),
        RUNLESS_RUN_ID,
        batch_metadata=batch,
    )


def _parse(key: str) -> datetime | None:
    try:
        return parse_key(key)
    except ValueError:  # of partitions that these assets once had
        return None
