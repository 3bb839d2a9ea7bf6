"""State of the hours in Dagster's event log: materialised hours, and hours whose last run has not materialised them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from dicom_assets.defs.dagster_private import find_newest_events, find_planned_runs, get_unfinished_backfills
from dicom_assets.defs.naming import ATTEMPT_TAG, REASON_TAG
from dicom_assets.defs.partitions import parse_hours, parse_key, partition_key
from dicom_assets.defs.runs.observed import ROW_COUNT, UNREADABLE_ENTRIES, parse_named
from dicom_assets.derive.extract import Named

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
    """The assets; `change_feed`, which records the number of an hour's entries, comes first."""

    def look(self, now: datetime, hours: Collection[datetime] | None = None) -> Seen:
        """Return the state of some hours; None means all hours.

        The event log may grow between the queries. An hour that a run materialises meanwhile counts as materialised,
        not as missing.

        Args:
            now: The current time, with a zone.
            hours: Starts of the hours.
        """
        keys = None if hours is None else {partition_key(hour) for hour in hours}
        materialized: list[set[str]] = []
        newest: dict[str, tuple[int, str]] = {}
        for asset in self.assets:
            stored = find_newest_events(self.instance, asset, dg.DagsterEventType.ASSET_MATERIALIZATION, keys)
            planned = find_newest_events(self.instance, asset, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, keys)
            pending = {key: event for key, event in planned.items() if event > stored.get(key, 0)}
            runs = find_planned_runs(self.instance, asset, min(pending.values())) if pending else {}
            for key in pending.keys() & runs.keys():
                run_id, event = runs[key]
                newest[key] = max(newest.get(key, (0, "")), (event, run_id))
            materialized.append(stored.keys() | (pending.keys() - runs.keys()))
        attempts = self._attempts({run_id for _, run_id in newest.values()}, now)
        unfinished = {
            hour: attempts[run_id]
            for key, (_, run_id) in newest.items()
            if run_id in attempts and (hour := parse_key(key)) is not None  # a deleted run does not count
        }
        return Seen(parse_hours(set.intersection(*materialized)), unfinished)

    def read_since(self, hour: datetime) -> datetime:
        """Return the earliest start among the runs that last materialised the hour, one run for each asset.

        The tables hold all entries that the service held at that time.
        """
        return min(self._last_run_began(asset, hour) for asset in self.assets)

    def last_read(self, hour: datetime) -> tuple[int, list[Named]]:
        """Return an hour's row count at its last materialization, and some of its entries without usable metadata.

        The numbers are those of the first asset, `change_feed`. The result is 0 and an empty list where the hour has
        no materialization.
        """
        record = self._last_materialization(self.assets[0], hour)
        return _row_count(record), _unreadable(record)

    def row_counts(self) -> dict[datetime, int]:
        """Return the row count of every materialised hour of the first asset, `change_feed`, by the hour's start."""
        asset = self.assets[0]
        latest = find_newest_events(self.instance, asset, dg.DagsterEventType.ASSET_MATERIALIZATION, None)
        ordered = sorted(latest.values())
        counts: dict[datetime, int] = {}
        for at in range(0, len(ordered), _EVENTS_PER_QUERY):
            chunk = ordered[at : at + _EVENTS_PER_QUERY]
            wanted = dg.AssetRecordsFilter(asset, storage_ids=chunk)
            for record in self.instance.fetch_materializations(wanted, limit=len(chunk)).records:
                if record.partition_key and (hour := parse_key(record.partition_key)) is not None:
                    counts[hour] = _row_count(record)
        return counts

    def backfilled(self, repository: dg.RepositoryDefinition) -> set[datetime]:
        """Return the hours of unfinished backfills, whose runs may not exist yet."""
        hours: set[datetime] = set()
        for backfill in get_unfinished_backfills(self.instance):
            if not backfill.is_asset_backfill:
                continue
            try:
                target = backfill.get_asset_backfill_data(repository.asset_graph).target_subset
            except dg.DagsterError:  # a backfill of an earlier partitions definition
                continue
            for asset in set(self.assets) & set(target.asset_keys):
                hours |= parse_hours(target.get_partitions_subset(asset).get_partition_keys())
        return hours

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
    number = _attempt_number(run)
    ended = created if record.end_time is None else _time(record.end_time)
    return Attempt(
        run_id=run.run_id,
        reason=run.tags.get(REASON_TAG),
        in_flight=not (abandoned or run.is_finished),
        began=None if record.start_time is None else _time(record.start_time),
        number=number,
        retry_at=ended + min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(number - 1, 10)),
    )


def _attempt_number(run: dg.DagsterRun) -> int:
    """Return the attempt number of a run; 1 for a run that no sensor requested."""
    text = run.tags.get(ATTEMPT_TAG, "")
    return int(text) if text.isdecimal() else 1


def _row_count(record: dg.EventLogRecord | None) -> int:
    metadata = record.asset_materialization.metadata if record and record.asset_materialization else {}
    value = metadata.get(ROW_COUNT)
    return value.value or 0 if isinstance(value, dg.IntMetadataValue) else 0


def _unreadable(record: dg.EventLogRecord | None) -> list[Named]:
    metadata = record.asset_materialization.metadata if record and record.asset_materialization else {}
    value = metadata.get(UNREADABLE_ENTRIES)
    return parse_named(value.value or "") if isinstance(value, dg.TextMetadataValue) else []


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
