"""The job `hours`, which materialises the assets, and the two sensors that request its runs: all that starts a run.

`catch_up.py` requests hours that are due, and `feed_sensor.py` hours of which the service has new or late entries. Both
read the state of the hours from `history/hour_log.py`, and build their requests by `run_requests.py`. People start runs
of the job, too, and backfills; the sensors leave the hours of these runs alone.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from dicom_assets.defs.automation.catch_up import build_catch_up
from dicom_assets.defs.automation.feed_sensor import build_feed_sensor
from dicom_assets.defs.naming import Naming
from dicom_assets.defs.pipeline import Pipeline


def build_hours_job(assets: Sequence[dg.AssetsDefinition], naming: Naming) -> Any:
    """Return the job that materialises all assets for some hours."""
    return dg.define_asset_job(
        naming.hours_job,
        selection=list(assets),
        executor_def=dg.in_process_executor,
        description=f"Brings all tables up to date{naming.words} for one hour of the change feed, or a range of hours.",
    )


def build_sensors(pipeline: Pipeline, job: Any) -> list[dg.SensorDefinition]:
    """Return the sensors that request runs of the job, without the ones that settings turn off."""
    settings = pipeline.settings
    return [
        *([build_catch_up(pipeline, job)] if settings.catch_up_runs else []),
        *([build_feed_sensor(pipeline, job)] if settings.sensor_interval_seconds else []),
    ]
