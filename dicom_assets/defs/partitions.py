"""Hours in UTC as partitions, and windows of the feed as runs see them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from dicom_assets.core.change_feed import HOUR, Window
from dicom_assets.core.errors import UnknownHourError

PARTITION_FORMAT = "%Y-%m-%d-%H:%M"


def build_partitions(
    first_hour: datetime, end: datetime | None, *, with_open_hour: bool = False
) -> dg.HourlyPartitionsDefinition:
    """The hours from the first on, up to `end`, exclusive, where there is one.

    An hour becomes a partition once it has ended, or, `with_open_hour`, as soon as it begins.
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
    """The hours of the lake as time passes. An hour is named by its start, in UTC."""

    first: datetime
    end: datetime | None
    """Of the last hour; None where the hours go on."""
    delay: timedelta
    """Between the end of an hour and the moment at which it is due: all that belongs in it is there by then."""

    def due_at(self, hour: datetime) -> datetime:
        """When an hour is to be read for good."""
        return hour + HOUR + self.delay

    def due_until(self, now: datetime) -> datetime:
        """The end of the last hour that is due; the first hour's start, or earlier, where none is."""
        return self._within(floor_hour(now - self.delay))

    def begun_until(self, now: datetime) -> datetime:
        """The end of the hour that is open now, or of the last hour of all."""
        return self._within(floor_hour(now) + HOUR)

    def _within(self, time: datetime) -> datetime:
        return time if self.end is None else min(time, self.end)


def floor_hour(time: datetime) -> datetime:
    """The start of the hour, in UTC, that a time lies in."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The hours from `start` on that end by `end`, both full hours; none where `end` is not later."""
    return [start + number * HOUR for number in range((end - start) // HOUR)]


def check_hours(asked: dg.PartitionKeyRange, partitions: dg.PartitionsDefinition[str]) -> None:
    """Makes sure that a run covers partitions alone: Dagster starts one with any hours in its tags.

    Raises:
        UnknownHourError: the first or the last hour is no partition, or they are in the wrong order.
    """
    if asked.start <= asked.end and all(partitions.has_partition_key(key) for key in (asked.start, asked.end)):
        return
    first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    raise UnknownHourError(
        f"The run was asked to cover {asked.start} to {asked.end}, but the hours that can be read are "
        f"{f'{first} to {last}' if first else 'none so far'} (UTC). They begin with DICOM_START_TIME, and each is "
        "there when it has ended, up to DICOM_END_TIME if that is set. Choose hours among these, the earlier one first."
    )


def to_window(span: dg.TimeWindow) -> Window:
    """A run's partition, or its range of partitions, as a window of the feed."""
    return Window(span.start.astimezone(UTC), span.end.astimezone(UTC))


def partition_key(start: datetime) -> str:
    """The partition of the hour that starts then."""
    return start.astimezone(UTC).strftime(PARTITION_FORMAT)


def parse_key(key: str) -> datetime:
    """The start of the hour that a partition is.

    Raises:
        ValueError: the key is no hour.
    """
    return datetime.strptime(key, PARTITION_FORMAT).replace(tzinfo=UTC)
