"""Requests to materialise all assets for some hours, one run for each unbroken span of them."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PRIORITY_TAG

from dicom_assets.core.change_feed import HOUR, Window
from dicom_assets.defs.partitions import partition_key

REASON_TAG = "dicom_assets/reason"
ATTEMPT_TAG = "dicom_assets/attempt"
HOURS_TAG = "hours"
"""A run's range: the UI's list of runs shows single hours, but none of Dagster's own tags of a range. It is short:
what is long is cut off there."""


class Reason(StrEnum):
    """Why the sensors ask for a run; shown as a tag of the run."""

    DUE = "hours are due"
    NEW = "new entries"
    LATE = "late entries"


@dataclass(frozen=True)
class Span:
    """Hours one after the other, for one run."""

    start: datetime
    hours: int = 1

    @property
    def window(self) -> Window:
        """The span as a window of the feed."""
        return Window(self.start, self.start + self.hours * HOUR)

    def __contains__(self, hour: datetime) -> bool:
        return self.window.start <= hour < self.window.end


def build_spans(
    hours: Iterable[datetime],
    limit: Callable[[Hashable], int],
    origin: Callable[[datetime], Hashable] = lambda _: None,
) -> list[Span]:
    """The hours as spans, newest first.

    Args:
        hours: in any order.
        limit: the most hours of a span, by origin.
        origin: hours of different origins never share a span.
    """
    spans: list[Span] = []
    of_last: Hashable = None
    for hour in sorted(hours, reverse=True):
        last = spans[-1] if spans else None
        of_hour = origin(hour)
        if last and of_last == of_hour and last.start == hour + HOUR and last.hours < limit(of_hour):
            spans[-1] = Span(hour, last.hours + 1)
        else:
            spans.append(Span(hour))
        of_last = of_hour
    return spans


def build_request(span: Span, reason: Reason, attempt: int = 1) -> dg.RunRequest:
    """A run of all assets for a span.

    It has no run key on purpose. Dagster stores the requests of a tick, with the ids of their runs, before it creates
    the first one, and goes on with them after a crash: none is lost, none comes twice. A run key would do more: it
    would refuse the same hours for ever, even where a person deleted what was materialised.
    """
    tags = {REASON_TAG: reason.value}
    if attempt > 1:
        tags[ATTEMPT_TAG] = str(attempt)
    if reason is not Reason.DUE:
        tags[PRIORITY_TAG] = "1"  # what is new need not wait behind what was missed
    first, last = partition_key(span.start), partition_key(span.start + (span.hours - 1) * HOUR)
    if span.hours == 1:
        return dg.RunRequest(partition_key=first, tags=tags)
    tags |= {
        ASSET_PARTITION_RANGE_START_TAG: first,
        ASSET_PARTITION_RANGE_END_TAG: last,
        HOURS_TAG: str(span.window),
    }
    return dg.RunRequest(tags=tags)


def attempt_of(run: dg.DagsterRun) -> int:
    """Which attempt a run is; runs that others asked for are the first."""
    text = run.tags.get(ATTEMPT_TAG, "")
    return int(text) if text.isdecimal() else 1
