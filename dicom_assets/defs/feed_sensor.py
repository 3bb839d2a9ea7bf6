"""The sensor that asks the service what is new: in the open hour, and late in hours that were read before.

It reads no entries. Entries never leave an hour, so an hour is out of date if and only if the service holds more
entries of it than were counted when it was last read, and one request for the entry behind that number tells. It costs
the same whether one entry is new or a million.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import dagster as dg
import msgspec

from dicom_assets.adapters.extract import Named
from dicom_assets.adapters.heal import has_news
from dicom_assets.core.change_feed import HOUR, Entry, Window
from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.defs.hour_log import HourLog
from dicom_assets.defs.hour_runs import Reason, build_request, build_spans
from dicom_assets.defs.partitions import Hours, floor_hour, hours_between
from dicom_assets.defs.sensor_cursor import read_cursor, write_cursor

NAME = "change_feed_sensor"
SWEEP_EVERY = timedelta(minutes=10)
"""Late entries do not show in the newest one, so hours are asked about from time to time even while nothing moves."""
SETTLING = timedelta(minutes=10)
"""After an hour is due it is the catch-up's for so long."""
QUESTIONS_PER_TICK = 50
PATIENCE_SECONDS = 20
"""Hours that are asked about in a tick, and for how long: Dagster gives a tick a minute."""


class Service(Protocol):
    """What the sensor asks; the client of the DICOM service."""

    def fetch_latest(self) -> Entry | None:
        """The newest entry."""
        ...

    def has_more_than(self, entries: int, window: Window) -> bool:
        """Whether the window holds more entries than that."""
        ...

    def fetch_entries(self, entries: Sequence[Named]) -> list[Entry]:
        """Entries as the service gives them now, with their metadata where it can be had."""
        ...


UNREADABLE_PER_HOUR = 5
"""Entries without usable metadata that are asked for again of an hour, at most; the nightly audit asks for all."""


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hours that are being asked about, newest first, over several ticks where they are many."""

    until: datetime
    """Hours from here on are done."""
    next_since: datetime
    """Where the next sweep is to end: what this one could not ask about is asked about then."""


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sensor has asked about. Without it, it asks about every hour there is."""

    version: Literal[1] = 1
    latest: tuple[str, int] | None = None
    """Time and sequence of the newest entry when the open hours were last found up to date."""
    sweep_at: datetime | None = None
    """When the next sweep begins; None: at once."""
    since: datetime | None = None
    """The oldest hour of the sweep under way, or else of the next; None: the first there is."""
    sweep: Sweep | None = None
    """The one under way."""


@dataclass
class Look:
    """One tick's look at the service: which hours are behind it, within the number of questions a tick may ask."""

    service: Service
    log: HourLog
    feed: dg.AssetKey
    """The asset that counts an hour's entries."""
    now: datetime
    questions: int = field(default_factory=lambda: QUESTIONS_PER_TICK)
    give_up_at: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)

    @property
    def is_over(self) -> bool:
        """Whether the tick may ask no more."""
        return self.questions <= 0 or time.monotonic() > self.give_up_at

    def behind(self, hour: datetime) -> bool:
        """Return whether the service has entries of the hour that were not read, or metadata that it had not."""
        self.questions -= 1
        rows, unreadable = self.log.last_read(self.feed, hour)
        return self.service.has_more_than(rows, Window(hour, hour + HOUR)) or self._heals(unreadable)

    def _heals(self, unreadable: list[Named]) -> bool:
        """Return whether one of some entries that came without usable metadata has it now, or is deleted."""
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
    """The sensor.

    Args:
        job: what it runs.
        assets: all that are brought up to date together.
        feed: the one of them that counts an hour's entries.
        hours: which there are, and when they are due.
        open_service: a client that soon gives up.
        check_lake: raises what is wrong with the lake.
        now: the time, with a zone.
        interval_seconds: between two ticks, at least.
        look_back: how long an hour is watched for late entries after it was due.
        hours_per_run: the most hours of a run.
        running: whether it is on until a person turns it off.
        name: of the sensor.
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
            build_request(span, reason, wanted[span.start])
            for reason, wanted in asked_for
            for span in build_spans(wanted, lambda _: hours_per_run, wanted.get)
        ]
        if not requests:
            waiting = moved and cursor.latest != latest
            return dg.SensorResult(skip_reason=_describe(latest, waiting=waiting), cursor=write_cursor(cursor))
        for reason, wanted in asked_for:
            for hour in sorted(wanted):
                context.log.info("%s: %s", reason.capitalize(), Window(hour, hour + HOUR))
        return dg.SensorResult(run_requests=requests, cursor=write_cursor(cursor))

    return change_feed_sensor


def _look_at_open_hours(
    look: Look, hours: Hours, cursor: Cursor, latest: tuple[str, int] | None
) -> tuple[dict[datetime, int], Cursor]:
    """Hours that are not due yet and have new entries, from that of the newest entry seen before on; which attempt."""
    first = max(hours.first, hours.due_until(look.now))
    if cursor.latest is not None:
        with suppress(ValueError):  # what the service gave was no time
            first = max(first, floor_hour(datetime.fromisoformat(cursor.latest[0])))
    candidates = hours_between(first, hours.begun_until(look.now))[-QUESTIONS_PER_TICK // 2 :]
    unfinished = look.log.look(look.now, candidates).unfinished
    busy = {hour for hour, each in unfinished.items() if each.in_flight or each.retry_at > look.now}
    free = [hour for hour in candidates if hour not in busy]
    attempts = {hour: unfinished[hour].number + 1 if hour in unfinished else 1 for hour in free}
    new = {hour: number for hour, number in attempts.items() if number > 1 or look.behind(hour)}
    if free == candidates and not new:  # else they are looked at again, until a run has brought what is new
        cursor = msgspec.structs.replace(cursor, latest=latest)
    return new, cursor


def _sweep(look: Look, hours: Hours, cursor: Cursor, look_back: timedelta) -> tuple[set[datetime], Cursor]:
    """Hours that were read and have late entries, as many as may be asked about now; and what is left."""
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
        if hour in seen.unfinished:  # in a run, or the catch-up's
            next_since = min(next_since, hour)
        elif look.behind(hour):
            late.add(hour)
        until = hour
    return late, msgspec.structs.replace(cursor, since=next_since, sweep=None, sweep_at=look.now + SWEEP_EVERY)


def _is_time(sweep_at: datetime | None, now: datetime) -> bool:
    """Whether a sweep is to begin; also after the clock was put back."""
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
