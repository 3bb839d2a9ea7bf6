"""The code location: Dagster definitions built from the settings in the environment."""

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from dicom_assets.lake.memory import choose_memory_pool

choose_memory_pool()

from dicom_assets.config.services import load_services
from dicom_assets.config.settings import Settings
from dicom_assets.core.finding import Finding
from dicom_assets.defs.assets.assets import build_assets
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.assets.resources import DicomServiceResource
from dicom_assets.defs.automation.automation import build_hours_job, build_sensors
from dicom_assets.defs.jobs.alerts import build_alert_sensor
from dicom_assets.defs.jobs.doctor import build_doctor_job
from dicom_assets.defs.jobs.fabric_shortcuts import build_fabric_job
from dicom_assets.defs.jobs.schedules import build_schedules
from dicom_assets.defs.naming import Naming
from dicom_assets.defs.pipeline import Pipeline
from dicom_assets.doctor.examination import CHECKS, examine
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.fabric.wanted import has_files, has_lakehouse, has_tables, update_shortcuts


def build_definitions(
    settings: Settings, *others: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dg.Definitions:
    """Return the definitions of the code location: those of each service, and the alert sensor.

    Args:
        settings: Settings of the lake and the first service.
        others: Settings of the other services, where there are several.
        now: Returns the current time, with a zone.
    """
    pipelines = (Pipeline(each, now, Naming.of_service(each.service_name)) for each in (settings, *others))
    return dg.Definitions.merge(*map(build_service, pipelines), dg.Definitions(sensors=build_alerts(settings)))


def build_service(pipeline: Pipeline) -> dg.Definitions:
    """Return the assets of one service, with its jobs, schedules, sensors and resources.

    No definition is shared with another service.
    """
    naming = pipeline.naming
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill policies are beta; a range in one run needs one
        assets = build_assets(pipeline)
    hours_job = build_hours_job(assets, naming)
    doctor_job = build_doctor_job([check.name for check in CHECKS], partial(_examine, pipeline), naming)
    return dg.Definitions(
        assets=assets,
        jobs=[hours_job, doctor_job, *build_fabric(pipeline)],
        schedules=build_schedules(pipeline),
        sensors=build_sensors(pipeline, hours_job),
        resources={
            naming.io_manager: DeltaIOManager(pipeline.lake, pipeline.tables_by_key, pipeline.memory),
            naming.service_resource: DicomServiceResource(pipeline.open_client, pipeline.now),
        },
        executor=dg.in_process_executor,
    )


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensor that posts alerts about failed runs, in a list; an empty list where no webhook is set."""
    if settings.alert_webhook_url is None:
        return []
    from dicom_assets.network.webhook import post_alert

    url = settings.alert_webhook_url.get_secret_value()
    return [build_alert_sensor(partial(post_alert, url), settings.dagster_url)]


def build_fabric(pipeline: Pipeline) -> list[dg.JobDefinition]:
    """Return the job that creates Fabric shortcuts, in a list.

    The list is empty where no lakehouse is set, or this service has neither tables nor files to show. Tables that
    several services share get their shortcuts from the first service's job.
    """
    settings = pipeline.settings
    with_tables = has_tables(settings)
    if not (has_lakehouse(settings) and (with_tables or has_files(settings))):
        return []
    return [build_fabric_job(partial(update_shortcuts, settings, with_tables=with_tables), pipeline.naming)]


def _examine(pipeline: Pipeline, instance: dg.DagsterInstance) -> Iterator[Finding]:
    surroundings = Surroundings(
        lambda: pipeline.settings, pipeline.now, key_prefix=pipeline.naming.prefix, instance=instance
    )
    return examine(surroundings)


defs = build_definitions(*load_services())
