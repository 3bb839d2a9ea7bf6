"""State of the hours in Dagster's event log: materialised hours, and hours whose last run has not materialised them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.errors import DagsterDefinitionChangedDeserializationError
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from dicom_assets.defs.history.hour_runs import REASON_TAG, attempt_of
from dicom_assets.defs.partitions import parse_key, partition_key
from dicom_assets.defs.runs.observed import UNREADABLE_ENTRIES, parse_named
from dicom_assets.derive.extract import Named

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

FIRST_WAIT = timedelta(minutes=5)
"""Wait between the end of an unsuccessful run and the next run of its hours; it doubles with each attempt."""
LONGEST_WAIT = timedelta(hours=6)
"""Upper bound of that wait."""
ABANDONED_AFTER = timedelta(hours=1)
"""Age at which a run that was created and not launched counts as abandoned: the daemon died before the launch, and
does not launch the run later."""

_RUNS_PER_QUERY = _EVENTS_PER_QUERY = 500


@dataclass(frozen=True)
class Attempt:
    """The last run that was planned to materialise an hour of some asset, and has not done so."""

    run_id: str
    reason: str | None
    """Reason for which a sensor requested the run; None where a person started it."""
    in_flight: bool
    """True if the run is queued or in progress; else it failed, was cancelled, or was never launched."""
    began: datetime | None
    """Time at which the run was started; None where it was not."""
    number: int
    """Attempt number for these hours, from 1 on."""
    retry_at: datetime
    """Time from which its hours may be requested again, if the run is not in flight."""


@dataclass(frozen=True)
class Seen:
    """State of some hours."""

    materialized: set[datetime]
    """Hours for which every asset has a materialization, by any run."""
    unfinished: dict[datetime, Attempt]
    """Hours with an attempt that is newer than the last materialization of one of the assets."""


@dataclass(frozen=True)
class HourLog:
    """Dagster's event log, read as hours of the given assets."""

    instance: dg.DagsterInstance
    assets: Sequence[dg.AssetKey]

    def look(self, now: datetime, hours: Collection[datetime] | None = None) -> Seen:
        """Return the state of some hours; None means all hours.

        Args:
            now: The current time, with a zone.
            hours: Starts of the hours.
        """
        keys = None if hours is None else {partition_key(hour) for hour in hours}
        materialized: list[set[str]] = []
        newest: dict[str, tuple[int, str]] = {}
        for asset in self.assets:
            stored = self._latest(asset, dg.DagsterEventType.ASSET_MATERIALIZATION, keys)
            planned = self._latest(asset, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, keys)
            materialized.append(set(stored))
            pending = {key: event for key, event in planned.items() if event > stored.get(key, 0)}
            for key, (run_id, event) in self._planned(asset, pending).items():
                newest[key] = max(newest.get(key, (0, "")), (event, run_id))
        attempts = self._attempts({run_id for _, run_id in newest.values()}, now)
        unfinished = {
            hour: attempts[run_id]
            for key, (_, run_id) in newest.items()
            if run_id in attempts and (hour := _parse(key)) is not None  # a deleted run does not count
        }
        return Seen(_hours(set.intersection(*materialized)), unfinished)

    def read_since(self, hour: datetime) -> datetime:
        """Return the earliest start among the runs that last materialised the hour, one run for each asset.

        The tables hold all entries that the service held at that time.
        """
        return min(self._last_run_began(asset, hour) for asset in self.assets)

    def last_read(self, asset: dg.AssetKey, hour: datetime) -> tuple[int, list[Named]]:
        """Return an hour's row count at its last materialization, and some of its entries without usable metadata.

        The result is 0 and an empty list where the hour has no materialization.
        """
        record = self._last_materialization(asset, hour)
        return _row_count(record), _unreadable(record)

    def row_counts(self, asset: dg.AssetKey) -> dict[datetime, int]:
        """Return the row count of every materialised hour at its last materialization, by the hour's start."""
        latest = self._latest(asset, dg.DagsterEventType.ASSET_MATERIALIZATION, None)
        ordered = sorted(latest.values())
        counts: dict[datetime, int] = {}
        for at in range(0, len(ordered), _EVENTS_PER_QUERY):
            chunk = ordered[at : at + _EVENTS_PER_QUERY]
            wanted = dg.AssetRecordsFilter(asset, storage_ids=chunk)
            for record in self.instance.fetch_materializations(wanted, limit=len(chunk)).records:
                if record.partition_key and (hour := _parse(record.partition_key)) is not None:
                    counts[hour] = _row_count(record)
        return counts

    def backfilled(self, graph: "BaseAssetGraph[Any]") -> set[datetime]:
        """Return the hours of unfinished backfills, whose runs may not exist yet."""
        # This import loads about half of Dagster, which a run does not need.
        from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

        unfinished = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
        hours: set[datetime] = set()
        for backfill in self.instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished)):
            if not backfill.is_asset_backfill:
                continue
            try:
                target = backfill.get_asset_backfill_data(graph).target_subset
            except DagsterDefinitionChangedDeserializationError:  # a backfill of an earlier partitions definition
                continue
            for asset in set(self.assets) & set(target.asset_keys):
                hours |= _hours(target.get_partitions_subset(asset).get_partition_keys())
        return hours

    def _latest(self, asset: dg.AssetKey, kind: dg.DagsterEventType, keys: Collection[str] | None) -> Mapping[str, int]:
        """Return the storage id of the newest event of a kind, by partition; newer events have greater ids."""
        if keys is not None and not keys:
            return {}
        partitions = None if keys is None else set(keys)
        return self.instance.event_log_storage.get_latest_storage_id_by_partition(asset, kind, partitions)

    def _planned(self, asset: dg.AssetKey, pending: Mapping[str, int]) -> dict[str, tuple[str, int]]:
        """Return the run id and the storage id of each pending planned event, by partition."""
        if not pending:
            return {}
        storage = self.instance.event_log_storage
        found = storage.get_latest_asset_partition_materialization_attempts_without_materializations(
            asset, after_storage_id=min(pending.values()) - 1
        )
        return {key: found[key] for key in pending if key in found}

    def _attempts(self, run_ids: set[str], now: datetime) -> dict[str, Attempt]:
        ordered = sorted(run_ids)
        chunks = (ordered[at : at + _RUNS_PER_QUERY] for at in range(0, len(ordered), _RUNS_PER_QUERY))
        return {
            record.dagster_run.run_id: _attempt(record, now)
            for chunk in chunks
            for record in self.instance.get_run_records(dg.RunsFilter(run_ids=chunk))
        }

    def _last_run_began(self, asset: dg.AssetKey, hour: datetime) -> datetime:
        record = self._last_materialization(asset, hour)
        if record is None:
            return datetime.min.replace(tzinfo=UTC)
        run = self.instance.get_run_record_by_id(record.run_id)
        return _time(run.start_time if run is not None and run.start_time else record.timestamp)

    def _last_materialization(self, asset: dg.AssetKey, hour: datetime) -> dg.EventLogRecord | None:
        wanted = dg.AssetRecordsFilter(asset, asset_partitions=[partition_key(hour)])
        return next(iter(self.instance.fetch_materializations(wanted, limit=1).records), None)


def _attempt(record: dg.RunRecord, now: datetime) -> Attempt:
    run = record.dagster_run
    created = record.create_timestamp
    abandoned = run.status is dg.DagsterRunStatus.NOT_STARTED and now - created > ABANDONED_AFTER
    number = attempt_of(run)
    ended = created if record.end_time is None else _time(record.end_time)
    return Attempt(
        run_id=run.run_id,
        reason=run.tags.get(REASON_TAG),
        in_flight=not abandoned and run.status not in FINISHED_STATUSES,
        began=None if record.start_time is None else _time(record.start_time),
        number=number,
        retry_at=ended + min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(number - 1, 10)),
    )


def _row_count(record: dg.EventLogRecord | None) -> int:
    metadata = record.asset_materialization.metadata if record and record.asset_materialization else {}
    value = metadata.get("dagster/partition_row_count")
    return value.value or 0 if isinstance(value, dg.IntMetadataValue) else 0


def _unreadable(record: dg.EventLogRecord | None) -> list[Named]:
    metadata = record.asset_materialization.metadata if record and record.asset_materialization else {}
    value = metadata.get(UNREADABLE_ENTRIES)
    return parse_named(value.value or "") if isinstance(value, dg.TextMetadataValue) else []


def _hours(keys: Iterable[str]) -> set[datetime]:
    return {hour for key in keys if (hour := _parse(key)) is not None}


def _parse(key: str) -> datetime | None:
    try:
        return parse_key(key)
    except ValueError:  # a partition of an earlier partitions definition
        return None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
