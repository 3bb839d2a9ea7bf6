"""The sensor that requests every hour once it is due, including hours that were missed while Dagster was down."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import dagster as dg
import msgspec

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.automation.run_requests import Reason, build_request, join_hours
from dicom_assets.defs.automation.sensor_cursor import read_cursor, write_cursor
from dicom_assets.defs.history.hour_log import Attempt, HourLog
from dicom_assets.defs.partitions import Hours, hours_between

NAME = "catch_up"
INTERVAL_SECONDS = 30
LOOK_EVERY = timedelta(minutes=10)
"""Longest time between two looks at the event log, while no hour is due, in a run, or waiting for a retry."""
CHECKED_PER_TICK = 100
"""Most hours whose last runs are looked up in one tick; more than these exist only after the cursor was lost."""


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State that saves the sensor a full look at the event log in every tick.

    Without a cursor the sensor requests no other runs, but takes longer.
    """

    version: Literal[1] = 1
    checked: datetime | None = None
    """End of the checked hours: no hour before this one was read too early, that is, before it was due."""
    look_at: datetime | None = None
    """Time of the next look; None: at once. The event log grows with the years, so not every tick reads it."""
    told: str = ""
    """Skip reason that the last look found."""


@dataclass(frozen=True)
class Limits:
    """Limits of the requested runs."""

    hours_per_run: int
    runs: int
    """Most runs that are queued or in progress at the same time."""


@dataclass(frozen=True)
class Situation:
    """State of the due hours at one tick."""

    wanted: set[datetime]
    """Hours to request."""
    unfinished: Mapping[datetime, Attempt]
    """Hours whose last run has not materialised them, with that run."""
    backfilled: set[datetime]
    """Hours of a person's unfinished backfill; the sensor waits for the backfill."""

    def windows(self, limits: Limits) -> list[Window]:
        """Return the windows to request, newest first.

        The hours of a failed run are requested in windows of half that run, so that one bad hour is soon in a run of
        its own and no longer blocks the others.
        """
        origins = {hour: self.unfinished[hour].run_id for hour in self.wanted if hour in self.unfinished}
        sizes = Counter(origins.values())

        def limit(run_id: Any) -> int:
            return limits.hours_per_run if run_id is None else max(1, min(limits.hours_per_run, sizes[run_id] // 2))

        return join_hours(self.wanted, limit, origins.get)

    def runs_in_flight(self) -> int:
        """Return the number of this sensor's runs that are queued or in progress."""
        runs = {each.run_id for each in self.unfinished.values() if each.in_flight and each.reason == Reason.DUE}
        return len(runs)

    def next_change(self, now: datetime) -> datetime:
        """Return the earliest time at which the situation may change: `now` while a run or a backfill is under way."""
        if self.backfilled:
            return now
        unfinished = self.unfinished.values()
        return min([now + LOOK_EVERY, *(now if each.in_flight else each.retry_at for each in unfinished)])

    def attempt(self, window: Window) -> int:
        """Return the attempt number for a run of the window, from 1 on."""
        attempt = self.unfinished.get(window.start)
        return 1 if attempt is None else attempt.number + 1

    def describe(self, now: datetime) -> str:
        """Return in words why some hours are not requested; an empty text if there are none."""
        flying = sum(attempt.in_flight for attempt in self.unfinished.values())
        failed = [attempt for attempt in self.unfinished.values() if not attempt.in_flight and attempt.retry_at > now]
        parts = []
        if flying:
            parts.append(f"{_count(flying)} in runs that wait or run")
        if self.backfilled:
            parts.append(f"{_count(len(self.backfilled))} in a backfill")
        if failed:
            parts.append(
                f"{_count(len(failed))} in runs that did not succeed, asked for again from "
                f"{min(attempt.retry_at for attempt in failed):%Y-%m-%d %H:%MZ} on (see these runs for the reason)"
            )
        return "; ".join(parts)


def build_catch_up(
    job: Any,
    assets: list[dg.AssetKey],
    *,
    hours: Hours,
    limits: Limits,
    ask_service: Callable[[], object],
    check_lake: Callable[[dg.DagsterInstance], None],
    now: Callable[[], datetime],
    running: bool,
    name: str = NAME,
) -> dg.SensorDefinition:
    """Return the catch-up sensor.

    Args:
        job: The job that the sensor runs.
        assets: Assets that must all be materialised for an hour to be done.
        hours: The hours of the lake, and when each is due.
        limits: Limits of the requested runs.
        ask_service: Sends one cheap request; raises an error if the service cannot be read.
        check_lake: Raises an error if the lake cannot be written.
        now: Returns the current time, with a zone.
        running: Whether the sensor is on by default.
        name: Name of the sensor.
    """

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks for every hour once it is due (closed for DICOM_WINDOW_DELAY_MINUTES), also for those that "
        "were missed, or whose run failed.",
    )
    def catch_up(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        moment = now()
        cursor = read_cursor(context.cursor, Cursor, context.log.warning)
        until = hours.due_until(moment)
        if until <= hours.first:
            due = hours.due_at(hours.first)
            return dg.SensorResult(
                skip_reason=f"No hour is due yet: the first, {hours.first:%Y-%m-%d %H:%MZ} (DICOM_START_TIME), is "
                f"read at {due:%Y-%m-%d %H:%MZ}.",
                cursor=context.cursor,
            )
        if cursor.look_at is not None and moment < cursor.look_at <= moment + LOOK_EVERY:
            return dg.SensorResult(skip_reason=cursor.told, cursor=context.cursor)
        situation, cursor = _look(context, HourLog(context.instance, assets), hours, cursor, moment)
        in_flight = situation.runs_in_flight()
        windows = situation.windows(limits)
        taken = windows[: max(0, limits.runs - in_flight)]
        told = situation.describe(moment)
        if windows and not taken:
            told = f"{_count_waiting(len(situation.wanted))} until one of {in_flight} runs has ended; {told}"
        if taken:
            waited_for = "the lake"
            try:
                check_lake(context.instance)
                waited_for = "the DICOM service"
                ask_service()
            except DicomAssetsError as error:
                taken, told = [], f"{_count_waiting(len(situation.wanted))} for {waited_for}. {error}"
        if not (taken or told):
            told = f"Every hour up to {until:%Y-%m-%d %H:%MZ} is in the tables."
        look_at = (
            moment if windows or cursor.checked != until else min(hours.due_at(until), situation.next_change(moment))
        )
        cursor = msgspec.structs.replace(cursor, look_at=look_at, told=told)
        if not taken:
            return dg.SensorResult(skip_reason=told, cursor=write_cursor(cursor))
        context.log.info("Asking for %s.", ", ".join(map(str, taken)))
        return dg.SensorResult(
            run_requests=[build_request(window, Reason.DUE, situation.attempt(window)) for window in taken],
            cursor=write_cursor(cursor),
        )

    return catch_up


def _look(
    context: dg.SensorEvaluationContext, log: HourLog, hours: Hours, cursor: Cursor, now: datetime
) -> tuple[Situation, Cursor]:
    """Return the state of the due hours, and the next cursor."""
    until = hours.due_until(now)
    seen = log.look(now)
    backfilled = log.backfilled(context.repository_def) if context.repository_def else set()
    due = set(hours_between(hours.first, until))
    done = (due & seen.materialized) - seen.unfinished.keys()
    unfinished = {hour: attempt for hour, attempt in seen.unfinished.items() if hour in due}
    early, checked = _find_early(log, hours, done, cursor.checked or hours.first, until)
    ready = {hour for hour, attempt in unfinished.items() if not attempt.in_flight and attempt.retry_at <= now}
    wanted = (due - done - unfinished.keys() | early | ready) - backfilled
    # A run that began before an hour was due may still materialise the hour too early.
    may_be_early = [hour for hour, attempt in unfinished.items() if _began_early(attempt, hours.due_at(hour))]
    return (
        Situation(wanted, unfinished, backfilled & due),
        Cursor(checked=min([checked, *early, *may_be_early])),
    )


def _find_early(
    log: HourLog, hours: Hours, done: set[datetime], start: datetime, until: datetime
) -> tuple[set[datetime], datetime]:
    """Return the hours that were last read before they were due, and the end of the hours that were checked."""
    unchecked = sorted(hour for hour in done if start <= hour < until)
    looked_at = unchecked[:CHECKED_PER_TICK]
    early = {hour for hour in looked_at if log.read_since(hour) < hours.due_at(hour)}
    return early, until if len(looked_at) == len(unchecked) else looked_at[-1] + HOUR


def _began_early(attempt: Attempt, due: datetime) -> bool:
    return attempt.in_flight and attempt.began is not None and attempt.began < due


def _count(hours: int) -> str:
    return "1 hour" if hours == 1 else f"{hours:,} hours"


def _count_waiting(hours: int) -> str:
    return _count(hours) + (" waits" if hours == 1 else " wait")
