"""Automation: a job that materialises the assets for some hours, and two sensors that request its runs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from dicom_assets.defs.automation.catch_up import NAME as CATCH_UP
from dicom_assets.defs.automation.catch_up import Limits, build_catch_up
from dicom_assets.defs.automation.feed_sensor import NAME as FEED_SENSOR
from dicom_assets.defs.automation.feed_sensor import Service, build_feed_sensor
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.partitions import Hours

JOB = "hours"


@dataclass(frozen=True)
class Automation:
    """Settings of the sensors."""

    hours: Hours
    catch_up: Limits
    """Limits of the catch-up sensor; with 0 runs the sensor is not built, and people run the due hours."""
    interval_seconds: int
    """Seconds between two ticks of the feed sensor; 0: the sensor is not built."""
    look_back: timedelta
    """Time for which hours are checked for late entries."""
    has_service: bool
    """True if a service is configured; without one the sensors exist, and are stopped."""


def build_automation(
    assets: Sequence[dg.AssetsDefinition],
    automation: Automation,
    open_service: Callable[[], AbstractContextManager[Service]],
    now: Callable[[], datetime],
    check_lake: Callable[[dg.DagsterInstance], None],
    *,
    naming: Naming = PLAIN,
) -> tuple[Any, list[dg.SensorDefinition]]:
    """Return the job of all assets, and the sensors that no setting turns off.

    Args:
        assets: All assets, `change_feed` first.
        automation: Settings of the sensors.
        open_service: Opens a client with short timeouts and few retries, since a tick has a minute.
        now: Returns the current time, with a zone.
        check_lake: Raises an error if the lake cannot be written.
        naming: Names of the service's parts.
    """
    job = dg.define_asset_job(
        naming.name(JOB),
        selection=list(assets),
        description=f"All tables, for an hour or a range of hours of the change feed{naming.words}.",
    )
    keys = [asset.key for asset in assets]
    sensors = []
    if automation.catch_up.runs:

        def ask_service() -> None:
            with open_service() as service:
                service.fetch_latest()

        sensors.append(
            build_catch_up(
                job,
                keys,
                hours=automation.hours,
                limits=automation.catch_up,
                ask_service=ask_service,
                check_lake=check_lake,
                now=now,
                running=automation.has_service,
                name=naming.name(CATCH_UP),
            )
        )
    if automation.interval_seconds:
        sensors.append(
            build_feed_sensor(
                job,
                keys,
                keys[0],
                hours=automation.hours,
                open_service=open_service,
                check_lake=check_lake,
                now=now,
                interval_seconds=automation.interval_seconds,
                look_back=automation.look_back,
                hours_per_run=automation.catch_up.hours_per_run,
                running=automation.has_service,
                name=naming.name(FEED_SENSOR),
            )
        )
    return job, sensors
