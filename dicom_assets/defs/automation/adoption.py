"""Report hours that are already in the lake to Dagster, as if Dagster had materialised them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from dicom_assets.defs.checks.same_lake import TABLE_ID, TABLE_VERSION
from dicom_assets.defs.dagster_private import report_in_batch
from dicom_assets.defs.history.hour_log import HourLog
from dicom_assets.defs.partitions import parse_hours, partition_key
from dicom_assets.defs.runs.observed import ROW_COUNT

HOURS_AT_ONCE = 24
"""Hours that are reported in one batch, where Dagster stores events in batches, as on Postgres
(DAGSTER_EVENT_BATCH_SIZE)."""


@dataclass(frozen=True)
class Adoption:
    """The hours of one asset that are reported to Dagster."""

    asset: dg.AssetKey
    hours: frozenset[datetime]
    version: int
    table_id: str
    entries: Mapping[datetime, int] | None = None
    """Entries by hour, for the asset that counts them; late entries are found by this number."""

    def tell_of(self, hour: datetime) -> dg.AssetMaterialization:
        """Return the materialization event of one hour."""
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
    """Return the hours for which Dagster has a materialization of the asset."""
    return parse_hours(instance.get_materialized_partitions(asset))


def find_busy(instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], now: datetime) -> set[datetime]:
    """Return the hours of runs that are queued or in progress."""
    unfinished = HourLog(instance, assets).look(now).unfinished
    return {hour for hour, attempt in unfinished.items() if attempt.in_flight}


def forget(instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey]) -> None:
    """Delete every materialization of the assets from Dagster's event log; runs and their logs stay."""
    instance.wipe_assets(assets)


def tell(instance: dg.DagsterInstance, adoptions: Sequence[Adoption]) -> Iterator[int]:
    """Report the hours to Dagster in batches, newest first, and yield how many hours are reported so far."""
    hours = sorted(frozenset[datetime]().union(*(each.hours for each in adoptions)), reverse=True)
    for at in range(0, len(hours), HOURS_AT_ONCE):
        group = hours[at : at + HOURS_AT_ONCE]
        events = [each.tell_of(hour) for hour in group for each in adoptions if hour in each.hours]
        report_in_batch(instance, events, f"adopt {partition_key(group[0])}")
        yield at + len(group)
