"""Hours in UTC as partitions, and windows of the feed as runs see them."""

from datetime import UTC, datetime

import dagster as dg

from dicom_assets.core.change_feed import Window
from dicom_assets.core.errors import UnknownHourError

PARTITION_FORMAT = "%Y-%m-%d-%H:%M"


def build_partitions(first_hour: datetime, end: datetime | None) -> dg.HourlyPartitionsDefinition:
    """The hours from the first on, each a partition once it has ended; up to `end`, exclusive, where there is one."""
    return dg.HourlyPartitionsDefinition(
        start_date=first_hour.astimezone(UTC).strftime(PARTITION_FORMAT),
        end_date=None if end is None else end.astimezone(UTC).strftime(PARTITION_FORMAT),
        timezone="UTC",
        fmt=PARTITION_FORMAT,
    )


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
