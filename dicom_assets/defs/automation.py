"""What runs the assets by itself: a job for an hour, and two sensors that ask for it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from dicom_assets.defs.catch_up import NAME as CATCH_UP
from dicom_assets.defs.catch_up import Limits, build_catch_up
from dicom_assets.defs.feed_sensor import NAME as FEED_SENSOR
from dicom_assets.defs.feed_sensor import Service, build_feed_sensor
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.partitions import Hours

JOB = "hours"


@dataclass(frozen=True)
class Automation:
    """How much runs by itself."""

    hours: Hours
    catch_up: Limits
    """With no run at a time, due hours are left to people."""
    interval_seconds: int
    """Between two looks at the feed; 0: none."""
    look_back: timedelta
    """How long hours are watched for late entries."""
    has_service: bool
    """Without one the sensors are there, and off."""


def build_automation(
    assets: Sequence[dg.AssetsDefinition],
    automation: Automation,
    open_service: Callable[[], AbstractContextManager[Service]],
    now: Callable[[], datetime],
    check_lake: Callable[[dg.DagsterInstance], None],
    *,
    naming: Naming = PLAIN,
) -> tuple[Any, list[dg.SensorDefinition]]:
    """The job of all assets, and the sensors that are not turned off by a setting.

    Args:
        assets: all of them, that of the change feed first.
        automation: how much runs by itself.
        open_service: a client that soon gives up: a tick has a minute.
        now: the time, with a zone.
        check_lake: raises what is wrong with the lake.
        naming: of the service.
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
