"""Hours in UTC as partitions, and runs' partitions as windows of the change feed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from dicom_assets.core.errors import UnknownHourError
from dicom_assets.core.tables.change_feed import HOUR, Window

PARTITION_FORMAT = "%Y-%m-%d-%H:%M"
_SHORTEST_DELAY = timedelta(minutes=5)
"""Shorter delays count as this one where an hour is late, since a run takes time too."""


def build_partitions(
    first_hour: datetime, end: datetime | None, *, with_open_hour: bool = False
) -> dg.HourlyPartitionsDefinition:
    """Return the hours from the first one on as partitions.

    Args:
        first_hour: Start of the first hour, with a zone.
        end: End of the last hour, exclusive, with a zone; None where the hours go on.
        with_open_hour: Whether an hour is a partition as soon as it begins; otherwise once it has ended.
    """
    return dg.HourlyPartitionsDefinition(
        start_date=first_hour.astimezone(UTC).strftime(PARTITION_FORMAT),
        end_date=None if end is None else end.astimezone(UTC).strftime(PARTITION_FORMAT),
        timezone="UTC",
        fmt=PARTITION_FORMAT,
        end_offset=1 if with_open_hour else 0,
    )


@dataclass(frozen=True)
class Hours:
    """The hours of the lake, and when each is due. An hour is identified by its start, in UTC."""

    first: datetime
    end: datetime | None
    """End of the last hour; None where the hours go on."""
    delay: timedelta
    """Time between the end of an hour and the time at which it is due; late changes are expected within it."""

    @property
    def lateness(self) -> timedelta:
        """Time from the end of an hour until it is late if it is missing: the delay, and two delays more."""
        return self.delay + 2 * max(self.delay, _SHORTEST_DELAY)

    def due_at(self, hour: datetime) -> datetime:
        """Return the time at which an hour is due, that is, expected to be complete."""
        return hour + HOUR + self.delay

    def due_until(self, now: datetime) -> datetime:
        """Return the end of the last hour that is due; the first hour's start, or earlier, where no hour is due."""
        return self._within(floor_hour(now - self.delay))

    def late_until(self, now: datetime) -> datetime:
        """Return the end of the last hour that must be there by now; the first hour's start, or earlier, for none."""
        return self._within(floor_hour(now - self.lateness))

    def begun_until(self, now: datetime) -> datetime:
        """Return the end of the hour that is open now, or of the lake's last hour."""
        return self._within(floor_hour(now) + HOUR)

    def _within(self, time: datetime) -> datetime:
        return time if self.end is None else min(time, self.end)


def floor_hour(time: datetime) -> datetime:
    """Return the start, in UTC, of the hour that contains a time."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """Return the hours between two full hours, `end` exclusive; an empty list where `end` is not after `start`."""
    return [start + number * HOUR for number in range((end - start) // HOUR)]


def check_hours(asked: dg.PartitionKeyRange, partitions: dg.PartitionsDefinition[str]) -> None:
    """Check that a run covers only existing partitions: Dagster starts runs with any hours in their tags.

    Raises:
        UnknownHourError: The first or the last hour is not a partition, or they are in the wrong order.
    """
    if asked.start <= asked.end and all(partitions.has_partition_key(key) for key in (asked.start, asked.end)):
        return
    first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    raise UnknownHourError(
        f"The run was asked to cover {asked.start} to {asked.end}, but the hours that can be read are "
        f"{f'{first} to {last}' if first else 'none so far'} (UTC). They begin with DICOM_START_TIME, and each is "
        "there when it has ended, up to DICOM_END_TIME if that is set. Choose hours among these, the earlier one first."
    )


def to_window(time_window: dg.TimeWindow) -> Window:
    """Return a run's partition, or its range of partitions, as a window of the change feed."""
    return Window(time_window.start.astimezone(UTC), time_window.end.astimezone(UTC))


def partition_key(start: datetime) -> str:
    """Return the partition key of the hour that starts at `start`."""
    return start.astimezone(UTC).strftime(PARTITION_FORMAT)


def parse_key(key: str) -> datetime | None:
    """Return the start of the hour, in UTC, that a partition key names.

    The result is None for a partition of an earlier partitions definition.
    """
    try:
        return datetime.strptime(key, PARTITION_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def parse_hours(keys: Iterable[str]) -> set[datetime]:
    """Return the starts of the hours that partition keys name, without partitions of earlier definitions."""
    return {hour for key in keys if (hour := parse_key(key)) is not None}
