"""The sensor that requests every hour once it is due, including hours that were missed while Dagster was down."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import dagster as dg
import msgspec

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.automation.run_requests import Reason, build_request, join_hours
from dicom_assets.defs.automation.sensor_cursor import read_cursor, write_cursor
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.history.hour_log import Attempt, HourLog
from dicom_assets.defs.partitions import Hours, hours_between
from dicom_assets.defs.pipeline import Pipeline

INTERVAL_SECONDS = 30
LOOK_EVERY = timedelta(minutes=10)
"""Longest time between two looks at the event log, while no hour is due, in a run, or waiting for a retry."""
CHECKED_PER_TICK = 100
"""Most hours whose last runs are looked up in one tick; more than these exist only after the cursor was lost."""


class CatchUpCursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State that saves the sensor a full look at the event log in every tick.

    Without a cursor the sensor requests no other runs, but takes longer.
    """

    version: Literal[1] = 1
    checked: datetime | None = None
    """End of the checked hours: no hour before this one was read too early, that is, before it was due."""
    look_at: datetime | None = None
    """Time of the next look; None: at once. The event log grows with the years, so not every tick reads it."""
    told: str = ""
    """Skip reason of the last look."""


@dataclass(frozen=True)
class Situation:
    """State of the due hours at one tick."""

    wanted: set[datetime]
    """Hours to request."""
    unfinished: Mapping[datetime, Attempt]
    """Hours whose last run has not materialised them, with that run."""
    backfilled: set[datetime]
    """Hours of a person's unfinished backfill; the sensor waits for the backfill."""

    def windows(self, hours_per_run: int) -> list[Window]:
        """Return the windows to request, newest first, each of at most `hours_per_run` hours.

        The hours of a failed run are requested in windows of half that run, so that one bad hour is soon in a run of
        its own and no longer blocks the others.
        """
        origins = {hour: self.unfinished[hour].run_id for hour in self.wanted if hour in self.unfinished}
        sizes = Counter(origins.values())

        def limit(run_id: Any) -> int:
            return hours_per_run if run_id is None else max(1, min(hours_per_run, sizes[run_id] // 2))

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

    def request(self, window: Window) -> dg.RunRequest:
        """Return the request for a run of the window, with its attempt number."""
        last = self.unfinished.get(window.start)
        return build_request(window, Reason.DUE, 1 if last is None else last.number + 1)

    def describe(self, now: datetime) -> str:
        """Return in words why some hours are not requested; an empty text if there are none."""
        flying = sum(attempt.in_flight for attempt in self.unfinished.values())
        failed = [attempt for attempt in self.unfinished.values() if not attempt.in_flight and attempt.retry_at > now]
        parts = []
        if flying:
            parts.append(f"{_count(flying)} in runs that are queued or in progress")
        if self.backfilled:
            parts.append(f"{_count(len(self.backfilled))} in a backfill")
        if failed:
            parts.append(
                f"{_count(len(failed))} in runs that did not succeed, requested again from "
                f"{min(attempt.retry_at for attempt in failed):%Y-%m-%d %H:%MZ} on (see these runs for the reason)"
            )
        return "; ".join(parts)


def build_catch_up(pipeline: Pipeline, job: Any) -> dg.SensorDefinition:
    """Return the catch-up sensor.

    Args:
        pipeline: The pipeline whose hours the sensor requests.
        job: The job that materialises all assets of the pipeline.
    """
    hours, settings = pipeline.hours, pipeline.settings

    @dg.sensor(
        name=pipeline.naming.catch_up_sensor,
        job=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=pipeline.sensor_status,
        description="Requests every hour once it is due, DICOM_WINDOW_DELAY_MINUTES after its end, and also hours that "
        "were missed or whose run failed.",
    )
    def catch_up(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = pipeline.now()
        cursor = read_cursor(context.cursor, CatchUpCursor, context.log.warning)
        until = hours.due_until(now)
        if until <= hours.first:
            told = (
                f"No hour is due yet: the first, {hours.first:%Y-%m-%d %H:%MZ} (DICOM_START_TIME), is read at "
                f"{hours.due_at(hours.first):%Y-%m-%d %H:%MZ}."
            )
            return dg.SensorResult(skip_reason=told, cursor=context.cursor)
        if cursor.look_at is not None and now < cursor.look_at <= now + LOOK_EVERY:
            return dg.SensorResult(skip_reason=cursor.told, cursor=context.cursor)
        situation, checked = _look(context, HourLog(context.instance, pipeline.keys), hours, cursor, now)
        windows = situation.windows(settings.catch_up_hours_per_run)
        in_flight = situation.runs_in_flight()
        taken = windows[: max(0, settings.catch_up_runs - in_flight)]
        told = situation.describe(now)
        obstacle = _find_obstacle(pipeline, context.instance) if taken else None
        if obstacle:
            taken, told = [], f"{_count_waiting(len(situation.wanted))} for {obstacle}"
        elif windows and not taken:
            told = f"{_count_waiting(len(situation.wanted))} until one of {in_flight} runs has ended; {told}"
        elif not (taken or told):
            told = f"Every hour up to {until:%Y-%m-%d %H:%MZ} is in the tables."
        is_unsettled = windows or checked != until
        look_at = now if is_unsettled else min(hours.due_at(until), situation.next_change(now))
        cursor = CatchUpCursor(checked=checked, look_at=look_at, told=told)
        if not taken:
            return dg.SensorResult(skip_reason=told, cursor=write_cursor(cursor))
        context.log.info("Requesting %s.", ", ".join(map(str, taken)))
        return dg.SensorResult(run_requests=[*map(situation.request, taken)], cursor=write_cursor(cursor))

    return catch_up


def _find_obstacle(pipeline: Pipeline, instance: dg.DagsterInstance) -> str | None:
    """Return what runs would fail of now, the lake or the service, and why; None where both can be used."""
    waited_for = "the lake"
    try:
        require_same_lake(instance, pipeline.lake, pipeline.tables.values(), pipeline.naming)
        waited_for = "the DICOM service"
        with pipeline.open_impatient_client() as service:
            service.fetch_latest()
    except DicomAssetsError as error:
        return f"{waited_for}. {error}"
    return None


def _look(
    context: dg.SensorEvaluationContext, log: HourLog, hours: Hours, cursor: CatchUpCursor, now: datetime
) -> tuple[Situation, datetime]:
    """Return the state of the due hours, and the end of the hours that were not read too early."""
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
    return Situation(wanted, unfinished, backfilled & due), min([checked, *early, *may_be_early])


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
