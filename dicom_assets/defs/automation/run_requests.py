"""Requests to materialise all assets for some hours, one run for each window of consecutive hours."""

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from enum import StrEnum

import dagster as dg

from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.naming import ATTEMPT_TAG, FIRST_HOUR_TAG, HOURS_TAG, LAST_HOUR_TAG, REASON_TAG
from dicom_assets.defs.partitions import partition_key


class Reason(StrEnum):
    """Reason for which a sensor requests a run; shown as a tag of the run."""

    DUE = "hours are due"
    NEW = "new entries"
    LATE = "late entries"


def join_hours(
    hours: Iterable[datetime],
    limit: Callable[[Hashable], int],
    origin: Callable[[datetime], Hashable] = lambda _: None,
) -> list[Window]:
    """Return windows of consecutive hours, newest first.

    Args:
        hours: Starts of the hours, in any order.
        limit: Returns the most hours of a window, for an origin.
        origin: Returns the origin of an hour; hours of different origins never share a window.
    """
    windows: list[Window] = []
    of_last: Hashable = None
    for hour in sorted(hours, reverse=True):
        last = windows[-1] if windows else None
        of_hour = origin(hour)
        if last and of_last == of_hour and last.start == hour + HOUR and last.hour_count < limit(of_hour):
            windows[-1] = Window(hour, last.end)
        else:
            windows.append(Window.of_hours(hour))
        of_last = of_hour
    return windows


def build_request(window: Window, reason: Reason, attempt: int = 1) -> dg.RunRequest:
    """Return the request for a run of all assets for a window of whole hours.

    The request has no run key on purpose. Dagster stores the requests of a tick, with the ids of their runs, before it
    creates the first run, and continues after a crash: no request is lost, and none is run twice. A run key would do
    more: it would refuse a second run of these hours for ever, even after a person deleted their materializations.
    """
    tags = {REASON_TAG: reason.value}
    if attempt > 1:
        tags[ATTEMPT_TAG] = str(attempt)
    if reason is not Reason.DUE:
        tags["dagster/priority"] = "1"  # new entries do not wait behind missed hours
    first, last = partition_key(window.start), partition_key(window.end - HOUR)
    if first == last:
        return dg.RunRequest(partition_key=first, tags=tags)
    return dg.RunRequest(tags=tags | {FIRST_HOUR_TAG: first, LAST_HOUR_TAG: last, HOURS_TAG: str(window)})
