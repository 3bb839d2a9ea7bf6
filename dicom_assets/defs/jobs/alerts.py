"""The alert about a failed run, for the person on call, and the sensor that sends it.

Only the texts of the project's own errors leave Dagster: they never hold patient data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dicom_assets.core import errors
from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.defs.naming import FIRST_HOUR_TAG, LAST_HOUR_TAG, REASON_TAG, Naming

Send = Callable[[Mapping[str, object]], None]
"""A function that delivers the body of an alert, and raises if it cannot."""

_OUR_ERRORS = {
    f"{kind.__module__}.{kind.__qualname__}": kind.__name__
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DicomAssetsError)
}
_WITHOUT_A_STEP = (
    "The run's process ended without an error message: it was killed, ran out of memory, or its machine stopped or "
    "restarted. Look at the log and the memory of the machine or container."
)
_BY_HAND = "Then open the run in Dagster and choose Re-execute, From failure."
_REQUESTED_AGAIN = (
    "The hours are requested again automatically, after 5 minutes and then less and less often; to have them at once, "
    "open the run in Dagster and choose Re-execute, From failure."
)
_FAILED_CHECK = "DagsterAssetCheckFailedError"


def build_alert_sensor(
    send: Send,
    dagster_url: str | None,
    *,
    name: str = "alert_on_failure",
    namings: Sequence[Naming] | None = None,
    running: bool = True,
) -> dg.SensorDefinition:
    """Return the sensor that sends one alert for every failed run, backfills included.

    Args:
        send: Delivers an alert.
        dagster_url: Base URL of Dagster's UI, for a link to the run; None where it is not known.
        name: Name of the sensor.
        namings: Names of the services whose runs the sensor looks at; None means every run of the code location.
        running: Whether the sensor runs until a person stops it.
    """

    @dg.run_failure_sensor(
        name=name,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Posts an alert about each failed run to DICOM_ALERT_WEBHOOK_URL: step, hours, cause and remedy.",
    )
    def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
        if namings is None or any(_concerns(context, naming) for naming in namings):
            send(build_alert(context, dagster_url))

    return alert_on_failure


def _concerns(context: dg.RunFailureSensorContext, naming: Naming) -> bool:
    """Return whether a step of the service failed or, where the process died, the run belongs to the service."""
    steps = [event.step_key for event in context.get_step_failure_events() if event.step_key]
    return any(map(naming.owns_step, steps)) if steps else naming.owns(context.dagster_run, context.instance)


def build_alert(context: dg.RunFailureSensorContext, dagster_url: str | None) -> dict[str, object]:
    """Return the body of an alert about a failed run: `text` for people, and separate fields for programs."""
    run, failures = context.dagster_run, context.get_step_failure_events()  # none where the process died
    steps = [event.step_key for event in failures if event.step_key]
    kind, why = _find_cause(failures[0]) if failures else ("", _WITHOUT_A_STEP)
    failed_checks = _find_failed_checks(context, failures)
    if failed_checks:
        why = f"A check found a fault, which blocks the tables that follow: {', '.join(failed_checks)}."
    retries = context.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_RESTARTED)
    attempts = 1 + sum(entry.step_key == failures[0].step_key for entry in retries) if failures else 1
    if attempts > 1:
        why += f" (after {attempts} attempts)"
    hours = _describe_hours(run.tags)
    what = f"{' and '.join(steps) or 'A run'} failed" + (f" for {hours}" if hours else "")
    link = f"{dagster_url}/runs/{run.run_id}" if dagster_url else None
    lines = [
        f"DICOM lake: {what}.",
        f"Why: {why}",
        "No data is lost: the service keeps its change feed, and the tables hold all hours that were read before.",
        f"What to do: fix the cause named above. {_REQUESTED_AGAIN if REASON_TAG in run.tags else _BY_HAND} "
        "Hours that are in the lake are not read again.",
        f"Run: {link or run.run_id}",
    ]
    return {
        "text": "\n".join(lines),
        "title": f"DICOM lake: {what}",
        "steps": steps,
        "hours": hours,
        "error": kind,
        "failed_checks": failed_checks,
        "run_id": run.run_id,
        "run_url": link,
    }


def _find_failed_checks(context: dg.RunFailureSensorContext, failures: Sequence[dg.DagsterEvent]) -> list[str]:
    """Return the failed checks of a run that a check stopped; an empty list for other runs."""
    if not any(info.cls_name == _FAILED_CHECK for event in failures for info in _chain(event)):
        return []
    evaluations = context.instance.all_logs(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )
    checks = [entry.dagster_event.asset_check_evaluation_data for entry in evaluations if entry.dagster_event]
    return [f"{check.check_name} of {check.asset_key.to_user_string()}" for check in checks if not check.passed]


def _describe_hours(tags: Mapping[str, str]) -> str:
    """Return the run's hours in words; an empty text where the run has no partitions."""
    first = tags.get(FIRST_HOUR_TAG) or tags.get("dagster/partition")
    last = tags.get(LAST_HOUR_TAG) or first
    if first is None:
        return ""
    return f"the hour {first} UTC" if first == last else f"the hours {first} to {last} UTC"


def _find_cause(event: dg.DagsterEvent) -> tuple[str, str]:
    """Return the class name of the error that failed a step, and an explanation that may leave Dagster."""
    infos = list(_chain(event))
    for info in infos:
        qualified, _, text = info.message.partition(": ")
        if qualified in _OUR_ERRORS:
            return _OUR_ERRORS[qualified], text.strip()
    kind = str(infos[-1].cls_name) if infos else "unknown"
    return kind, (
        f"An error that is not one of the project's own ({kind}). Its text stays in Dagster, since it may hold patient "
        "data: open the run, and look at the failed step."
    )


def _chain(event: dg.DagsterEvent) -> Iterator[Any]:
    """Yield the step's error and its causes, outermost first."""
    info = event.step_failure_data.error
    while info:
        yield info
        info = info.cause or info.context
