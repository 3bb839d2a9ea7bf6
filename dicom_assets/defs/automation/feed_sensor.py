"""The sensor that asks the service for new entries: in the open hour, and late ones in hours that were read before.

It does not read the new entries. Entries never leave an hour, so an hour is out of date if and only if the service
holds more entries of the hour than were counted when the hour was last read. One request, for the entry after the last
counted one, shows whether it does. The cost does not depend on the number of new entries.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import dagster as dg
import msgspec

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.core.tables.change_feed import Entry, Window
from dicom_assets.defs.automation.run_requests import Reason, build_request, join_hours
from dicom_assets.defs.automation.sensor_cursor import read_cursor, write_cursor
from dicom_assets.defs.history.hour_log import HourLog
from dicom_assets.defs.partitions import Hours, floor_hour, hours_between
from dicom_assets.derive.extract import Named
from dicom_assets.derive.heal import has_news

NAME = "change_feed_sensor"
SWEEP_EVERY = timedelta(minutes=10)
"""Time between two sweeps. The newest entry does not show late entries, so hours are checked even if it is old."""
SETTLING = timedelta(minutes=10)
"""Time after an hour is due during which only the catch-up sensor requests the hour."""
QUESTIONS_PER_TICK = 50
"""Most requests about hours and entries in one tick."""
PATIENCE_SECONDS = 20
"""Most seconds that a tick spends on these requests; Dagster gives a tick a minute."""


class Service(Protocol):
    """Requests that the sensor sends; the client of the DICOM service implements them."""

    def fetch_latest(self) -> Entry | None:
        """Return the newest entry; None where the feed is empty."""
        ...

    def has_more_than(self, entries: int, window: Window) -> bool:
        """Return whether the window holds more than `entries` entries."""
        ...

    def fetch_entries(self, entries: Sequence[Named]) -> list[Entry]:
        """Return entries as the service returns them now, with their metadata where the service can read it."""
        ...


UNREADABLE_PER_HOUR = 5
"""Most entries without usable metadata that a tick requests again for one hour; the nightly audit requests all."""


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Check of many hours, newest first, which may take several ticks."""

    until: datetime
    """Hours from this one on are checked."""
    next_since: datetime
    """Oldest hour of the next sweep, so that it includes the hours that this sweep had to skip."""


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of the sensor. Without a cursor the sensor checks every hour."""

    version: Literal[1] = 1
    latest: tuple[str, int] | None = None
    """Timestamp and sequence of the newest entry when the open hours were last found up to date."""
    sweep_at: datetime | None = None
    """Time at which the next sweep begins; None: at once."""
    since: datetime | None = None
    """Oldest hour of the sweep under way, or else of the next one; None: the lake's first hour."""
    sweep: Sweep | None = None
    """The sweep under way, if there is one."""


@dataclass
class Look:
    """Comparison of hours with the service, within the number of requests and seconds that one tick has."""

    service: Service
    log: HourLog
    feed: dg.AssetKey
    """Asset that records the number of an hour's entries."""
    now: datetime
    questions: int = field(default_factory=lambda: QUESTIONS_PER_TICK)
    give_up_at: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)

    @property
    def is_over(self) -> bool:
        """True if the tick may send no more requests."""
        return self.questions <= 0 or time.monotonic() > self.give_up_at

    def behind(self, hour: datetime) -> bool:
        """Return whether the service has unread entries of the hour, or metadata that it could not give before."""
        self.questions -= 1
        rows, unreadable = self.log.last_read(self.feed, hour)
        return self.service.has_more_than(rows, Window.of_hours(hour)) or self._heals(unreadable)

    def _heals(self, unreadable: list[Named]) -> bool:
        """Return whether an entry that was read without usable metadata has metadata now, or is deleted."""
        asked = unreadable[:UNREADABLE_PER_HOUR]
        self.questions -= len(asked)
        return any(has_news(entry) for entry in self.service.fetch_entries(asked)) if asked else False


def build_feed_sensor(
    job: Any,
    assets: list[dg.AssetKey],
    feed: dg.AssetKey,
    *,
    hours: Hours,
    open_service: Callable[[], AbstractContextManager[Service]],
    check_lake: Callable[[dg.DagsterInstance], None],
    now: Callable[[], datetime],
    interval_seconds: int,
    look_back: timedelta,
    hours_per_run: int,
    running: bool,
    name: str = NAME,
) -> dg.SensorDefinition:
    """Return the change feed sensor.

    Args:
        job: The job that the sensor runs.
        assets: Assets that a run materialises together.
        feed: The asset among them that records the number of an hour's entries.
        hours: The hours of the lake, and when each is due.
        open_service: Opens a client with short timeouts and few retries.
        check_lake: Raises an error if the lake cannot be written.
        now: Returns the current time, with a zone.
        interval_seconds: Least number of seconds between two ticks.
        look_back: Time for which an hour is checked for late entries after it was due.
        hours_per_run: Most hours of a run.
        running: Whether the sensor is on by default.
        name: Name of the sensor.
    """

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks the DICOM service what is new: runs the open hour when it has new entries, and an earlier "
        "hour when entries turned up late in it.",
    )
    def change_feed_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        moment = now()
        cursor = read_cursor(context.cursor, Cursor, context.log.warning)
        if hours.begun_until(moment) <= hours.first:
            return dg.SensorResult(
                skip_reason=f"No hour has begun yet: the first is {hours.first:%Y-%m-%d %H:%MZ} (DICOM_START_TIME).",
                cursor=context.cursor,
            )
        try:
            with open_service() as service:
                entry = service.fetch_latest()
                latest = None if entry is None else (entry.timestamp, entry.sequence)
                moved = latest != cursor.latest
                sweeping = cursor.sweep is not None or _is_time(cursor.sweep_at, moment)
                if not (moved or sweeping):
                    return dg.SensorResult(skip_reason=_describe(latest), cursor=context.cursor)
                look = Look(service, HourLog(context.instance, assets), feed, moment)
                new: dict[datetime, int] = {}
                late: set[datetime] = set()
                if moved:
                    new, cursor = _look_at_open_hours(look, hours, cursor, latest)
                if sweeping:
                    late, cursor = _sweep(look, hours, cursor, look_back)
            if new or late:
                check_lake(context.instance)
        except DicomAssetsError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        asked_for = [(Reason.NEW, new), (Reason.LATE, dict.fromkeys(late - new.keys(), 1))]
        requests = [
            build_request(window, reason, wanted[window.start])
            for reason, wanted in asked_for
            for window in join_hours(wanted, lambda _: hours_per_run, wanted.get)
        ]
        if not requests:
            waiting = moved and cursor.latest != latest
            return dg.SensorResult(skip_reason=_describe(latest, waiting=waiting), cursor=write_cursor(cursor))
        for reason, wanted in asked_for:
            for hour in sorted(wanted):
                context.log.info("%s: %s", reason.capitalize(), Window.of_hours(hour))
        return dg.SensorResult(run_requests=requests, cursor=write_cursor(cursor))

    return change_feed_sensor


def _look_at_open_hours(
    look: Look, hours: Hours, cursor: Cursor, latest: tuple[str, int] | None
) -> tuple[dict[datetime, int], Cursor]:
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
    new = {hour: number for hour, number in attempts.items() if number > 1 or look.behind(hour)}
    if free == candidates and not new:  # else the next tick checks again, until a run has stored the new entries
        cursor = msgspec.structs.replace(cursor, latest=latest)
    return new, cursor


def _sweep(look: Look, hours: Hours, cursor: Cursor, look_back: timedelta) -> tuple[set[datetime], Cursor]:
    """Return the read hours that have late entries, as far as this tick may check, and the next cursor."""
    settled = hours.due_until(look.now - SETTLING)
    sweep = cursor.sweep or Sweep(until=settled, next_since=settled - look_back)
    since = min(cursor.since or hours.first, sweep.next_since)
    seen = look.log.look(look.now)
    late: set[datetime] = set()
    until, next_since = sweep.until, sweep.next_since
    for hour in _newest_first(seen.materialized, since, sweep.until):
        if look.is_over:
            sweep = Sweep(until=until, next_since=next_since)
            return late, msgspec.structs.replace(cursor, since=since, sweep=sweep)
        if hour in seen.unfinished:  # in a run, or requested by the catch-up sensor
            next_since = min(next_since, hour)
        elif look.behind(hour):
            late.add(hour)
        until = hour
    return late, msgspec.structs.replace(cursor, since=next_since, sweep=None, sweep_at=look.now + SWEEP_EVERY)


def _is_time(sweep_at: datetime | None, now: datetime) -> bool:
    """Return whether a sweep begins now; it also begins after the clock was set back."""
    return sweep_at is None or not now < sweep_at <= now + SWEEP_EVERY


def _newest_first(hours: Iterable[datetime], since: datetime, until: datetime) -> list[datetime]:
    return sorted((hour for hour in hours if since <= hour < until), reverse=True)


def _describe(latest: tuple[str, int] | None, *, waiting: bool = False) -> str:
    if latest is None:
        return "The change feed is empty."
    if waiting:
        return (
            f"The newest entry is sequence {latest[1]}, of {latest[0]}. Its hour is in a run that waits or runs, or "
            "one that failed a short while ago: it is looked at again."
        )
    return f"Nothing to do: the newest entry is sequence {latest[1]}, of {latest[0]}, and no late one was found."
