"""The sensor that asks the service for new entries: in the open hour, and late ones in hours that were read before.

It does not read the new entries. Entries never leave an hour, so an hour is out of date if and only if the service
holds more entries of the hour than were counted when the hour was last read. One request, for the entry after the last
counted one, shows whether it does. The cost does not depend on the number of new entries.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import msgspec

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.defs.automation.run_requests import Reason, build_request, join_hours
from dicom_assets.defs.automation.sensor_cursor import read_cursor, write_cursor
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.history.hour_log import HourLog
from dicom_assets.defs.partitions import Hours, floor_hour, hours_between
from dicom_assets.defs.pipeline import Pipeline
from dicom_assets.derive.extract import Named
from dicom_assets.derive.heal import has_news

if TYPE_CHECKING:
    from dicom_assets.service.client import DicomService

Newest = tuple[str, int]
"""Timestamp and sequence of the newest entry of the feed."""
SWEEP_EVERY = timedelta(minutes=10)
"""Time between two sweeps. The newest entry does not show late entries, so hours are checked even if it is old."""
SETTLING = timedelta(minutes=10)
"""Time after an hour is due during which only the catch-up sensor requests the hour."""
QUESTIONS_PER_TICK = 50
"""Most requests about hours and entries in one tick."""
PATIENCE_SECONDS = 20
"""Most seconds that a tick spends on these requests; Dagster gives a tick a minute."""
UNREADABLE_PER_HOUR = 5
"""Most entries without usable metadata that a tick requests again for one hour; the nightly audit requests all."""


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Check of many hours, newest first, which may take several ticks."""

    until: datetime
    """Hours from this one on are checked."""
    next_since: datetime
    """Oldest hour of the next sweep, so that it includes the hours that this sweep had to skip."""


class FeedCursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of the sensor. Without a cursor the sensor checks every hour."""

    version: Literal[1] = 1
    latest: Newest | None = None
    """The newest entry when the open hours were last found up to date."""
    sweep_at: datetime | None = None
    """Time at which the next sweep begins; None: at once."""
    since: datetime | None = None
    """Oldest hour of the sweep under way, or else of the next one; None: the lake's first hour."""
    sweep: Sweep | None = None
    """The sweep under way, if there is one."""


@dataclass
class Look:
    """Comparison of hours with the service, within the number of requests and seconds that one tick has."""

    service: "DicomService"
    log: HourLog
    now: datetime
    questions: int = field(default_factory=lambda: QUESTIONS_PER_TICK)
    give_up_at: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)

    @property
    def is_over(self) -> bool:
        """True if the tick may send no more requests."""
        return self.questions <= 0 or time.monotonic() > self.give_up_at

    def is_outdated(self, hour: datetime) -> bool:
        """Return whether the service has unread entries of the hour, or metadata that it could not give before."""
        self.questions -= 1
        rows, unreadable = self.log.last_read(hour)
        return self.service.has_more_than(rows, Window.of_hours(hour)) or self._has_gained_metadata(unreadable)

    def _has_gained_metadata(self, unreadable: list[Named]) -> bool:
        """Return whether an entry that was read without usable metadata has metadata now, or is deleted."""
        asked = unreadable[:UNREADABLE_PER_HOUR]
        self.questions -= len(asked)
        return any(has_news(entry) for entry in self.service.fetch_entries(asked)) if asked else False


def build_feed_sensor(pipeline: Pipeline, job: Any) -> dg.SensorDefinition:
    """Return the change feed sensor.

    Args:
        pipeline: The pipeline whose hours the sensor requests.
        job: The job that materialises all assets of the pipeline.
    """
    hours, settings = pipeline.hours, pipeline.settings

    @dg.sensor(
        name=pipeline.naming.feed_sensor,
        job=job,
        minimum_interval_seconds=settings.sensor_interval_seconds,
        default_status=pipeline.sensor_status,
        description="Asks the DICOM service for new entries, and requests the open hour if it has any, and an earlier "
        "hour if entries were added to it late.",
    )
    def change_feed_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = pipeline.now()
        cursor = read_cursor(context.cursor, FeedCursor, context.log.warning)
        if hours.begun_until(now) <= hours.first:
            told = f"No hour has begun yet: the first is {hours.first:%Y-%m-%d %H:%MZ} (DICOM_START_TIME)."
            return dg.SensorResult(skip_reason=told, cursor=context.cursor)
        new: dict[datetime, int] = {}
        late: set[datetime] = set()
        try:
            with pipeline.open_impatient_client() as service:
                entry = service.fetch_latest()
                latest = None if entry is None else (entry.timestamp, entry.sequence)
                moved = latest != cursor.latest
                sweeping = cursor.sweep is not None or _is_time(cursor.sweep_at, now)
                look = Look(service, HourLog(context.instance, pipeline.keys), now)
                if moved:
                    new, cursor = _look_at_open_hours(look, hours, cursor, latest)
                if sweeping:
                    late, cursor = _sweep(look, hours, cursor, timedelta(hours=settings.look_back_hours))
            if new or late:
                require_same_lake(context.instance, pipeline.lake, pipeline.tables.values(), pipeline.naming)
        except DicomAssetsError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        if not (moved or sweeping):
            return dg.SensorResult(skip_reason=_describe(latest), cursor=context.cursor)
        if not (new or late):
            waiting = moved and cursor.latest != latest
            return dg.SensorResult(skip_reason=_describe(latest, waiting=waiting), cursor=write_cursor(cursor))
        requests = []
        for reason, attempts in ((Reason.NEW, new), (Reason.LATE, dict.fromkeys(late - new.keys(), 1))):
            for window in join_hours(attempts, lambda _: settings.catch_up_hours_per_run, attempts.get):
                context.log.info("%s: %s", reason.capitalize(), window)
                requests.append(build_request(window, reason, attempts[window.start]))
        return dg.SensorResult(run_requests=requests, cursor=write_cursor(cursor))

    return change_feed_sensor


def _look_at_open_hours(
    look: Look, hours: Hours, cursor: FeedCursor, latest: Newest | None
) -> tuple[dict[datetime, int], FeedCursor]:
    """Return the hours with new entries that are not due yet, with their attempt numbers, and the next cursor.

    The look begins at the hour of the newest entry that was seen before.
    """
    first = max(hours.first, hours.due_until(look.now))
    if cursor.latest is not None:
        with suppress(ValueError):  # the service's timestamp could not be parsed
            first = max(first, floor_hour(datetime.fromisoformat(cursor.latest[0])))
    candidates = hours_between(first, hours.begun_until(look.now))[-QUESTIONS_PER_TICK // 2 :]
    unfinished = look.log.look(look.now, candidates).unfinished
    busy = {hour for hour, each in unfinished.items() if each.in_flight or each.retry_at > look.now}
    free = [hour for hour in candidates if hour not in busy]
    attempts = {hour: unfinished[hour].number + 1 if hour in unfinished else 1 for hour in free}
    new = {hour: number for hour, number in attempts.items() if number > 1 or look.is_outdated(hour)}
    if free == candidates and not new:  # else the next tick checks again, until a run has stored the new entries
        cursor = msgspec.structs.replace(cursor, latest=latest)
    return new, cursor


def _sweep(look: Look, hours: Hours, cursor: FeedCursor, look_back: timedelta) -> tuple[set[datetime], FeedCursor]:
    """Return the read hours that have late entries, as far as this tick may check, and the next cursor."""
    settled = hours.due_until(look.now - SETTLING)
    sweep = cursor.sweep or Sweep(until=settled, next_since=settled - look_back)
    since = min(cursor.since or hours.first, sweep.next_since)
    seen = look.log.look(look.now)
    late: set[datetime] = set()
    until, next_since = sweep.until, sweep.next_since
    for hour in sorted((hour for hour in seen.materialized if since <= hour < sweep.until), reverse=True):
        if look.is_over:
            sweep = Sweep(until=until, next_since=next_since)
            return late, msgspec.structs.replace(cursor, since=since, sweep=sweep)
        if hour in seen.unfinished:  # in a run, or requested by the catch-up sensor
            next_since = min(next_since, hour)
        elif look.is_outdated(hour):
            late.add(hour)
        until = hour
    return late, msgspec.structs.replace(cursor, since=next_since, sweep=None, sweep_at=look.now + SWEEP_EVERY)


def _is_time(sweep_at: datetime | None, now: datetime) -> bool:
    """Return whether a sweep begins now; it also begins after the clock was set back."""
    return sweep_at is None or not now < sweep_at <= now + SWEEP_EVERY


def _describe(latest: Newest | None, *, waiting: bool = False) -> str:
    if latest is None:
        return "The change feed is empty."
    if waiting:
        return (
            f"The newest entry is sequence {latest[1]}, of {latest[0]}. A run of its hour is queued or in progress, or "
            "failed a short while ago: the hour is checked again."
        )
    return f"Nothing to do: the newest entry is sequence {latest[1]}, of {latest[0]}, and no late entry was found."
