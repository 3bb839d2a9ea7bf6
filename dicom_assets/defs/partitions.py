"""Hours in UTC as partitions, and windows of the feed as runs see them."""

from datetime import UTC, datetime

import dagster as dg

from dicom_assets.core.change_feed import Window

PARTITION_FORMAT = "%Y-%m-%d-%H:%M"


def build_partitions(first_hour: datetime, end: datetime | None) -> dg.HourlyPartitionsDefinition:
    """The hours from the first on, each a partition once it has ended; up to `end`, exclusive, where there is one."""
    return dg.HourlyPartitionsDefinition(
        start_date=first_hour.astimezone(UTC).strftime(PARTITION_FORMAT),
        end_date=None if end is None else end.astimezone(UTC).strftime(PARTITION_FORMAT),
        timezone="UTC",
        fmt=PARTITION_FORMAT,
    )


def to_window(span: dg.TimeWindow) -> Window:
    """A run's partition, or its range of partitions, as a window of the feed."""
    return Window(span.start.astimezone(UTC), span.end.astimezone(UTC))


def partition_key(start: datetime) -> str:
    """The partition of the hour that starts then."""
    return start.astimezone(UTC).strftime(PARTITION_FORMAT)
