"""Definitions from settings: of the application's code location, and of a part of another project.

Importing this module reads no environment and opens nothing: the caller passes the settings.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from dicom_assets.config.settings import Settings
from dicom_assets.core.finding import Finding
from dicom_assets.defs.assets.assets import OWNERS, build_assets
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.assets.resources import DicomServiceResource
from dicom_assets.defs.automation.automation import build_hours_job, build_sensors
from dicom_assets.defs.jobs.alerts import build_alert_sensor
from dicom_assets.defs.jobs.doctor import build_doctor_job
from dicom_assets.defs.jobs.fabric_shortcuts import build_fabric_job
from dicom_assets.defs.jobs.schedules import build_schedules
from dicom_assets.defs.naming import Naming, check_key_prefix
from dicom_assets.defs.pipeline import Automation, Pipeline
from dicom_assets.doctor.examination import CHECKS, examine
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.fabric.wanted import has_files, has_lakehouse, has_tables, update_shortcuts

KEY_PREFIX = "dicom"
"""Prefix of the asset keys in another project, unless it chooses one."""


def get_time() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


def build_definitions(settings: Settings, *others: Settings, now: Callable[[], datetime] = get_time) -> dg.Definitions:
    """Return the definitions of the application: plain names, everything started, all runs in process.

    Args:
        settings: Settings of the lake and the first service.
        others: Settings of the other services, where there are several.
        now: Returns the current time, with a zone.
    """
    definitions = build_defs(settings, *others, key_prefix=None, owners=OWNERS, automation="running", now=now)
    return dg.Definitions.merge(definitions, dg.Definitions(executor=dg.in_process_executor))


def build_defs(
    settings: Settings,
    *others: Settings,
    key_prefix: str | Sequence[str] | None = KEY_PREFIX,
    group_name: str | None = None,
    owners: Sequence[str] = (),
    automation: Automation = "stopped",
    now: Callable[[], datetime] = get_time,
) -> dg.Definitions:
    """Return the definitions of a DICOM service's tables, to merge with a project's own definitions.

    The jobs run in process, and no executor is set for the project's own assets and jobs.

    Args:
        settings: Settings of the lake and the first service.
        others: Settings of the other services, where there are several.
        key_prefix: First parts of the asset keys, as `"radiology/north"` or a list; the names of jobs, sensors,
            schedules, resources and pools begin with them. None means no prefix.
        group_name: Group of the assets; None names it after the prefix.
        owners: Owners of the assets, such as `"team:imaging-data"`.
        automation: Whether sensors and schedules start out `"running"` or `"stopped"`; `"off"` leaves them out.
        now: Returns the current time, with a zone.

    Raises:
        SettingsError: The prefix cannot be one.
    """
    prefix = check_key_prefix(key_prefix)
    pipelines = [
        Pipeline(each, now, Naming.of_service(each.service_name, prefix, group_name), owners, automation)
        for each in (settings, *others)
    ]
    alerts = build_alerts(settings, Naming(prefix), [pipeline.naming for pipeline in pipelines], automation)
    return dg.Definitions.merge(*map(build_service, pipelines), dg.Definitions(sensors=alerts))


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
    schedules = build_schedules(pipeline)
    is_off = pipeline.automation == "off"
    return dg.Definitions(
        assets=assets,
        jobs=[
            hours_job,
            doctor_job,
            *build_fabric(pipeline),
            *([schedule.job for schedule in schedules] if is_off else []),
        ],
        schedules=[] if is_off else schedules,
        sensors=[] if is_off else build_sensors(pipeline, hours_job),
        resources={
            naming.io_manager: DeltaIOManager(pipeline.lake, pipeline.tables_by_key, pipeline.memory),
            naming.service_resource: DicomServiceResource(pipeline.open_client, pipeline.now),
        },
    )


def build_alerts(
    settings: Settings, naming: Naming, namings: Sequence[Naming], automation: Automation
) -> list[dg.SensorDefinition]:
    """Return the sensor that posts alerts about failed runs, in a list; an empty list where no webhook is set.

    Args:
        settings: Settings with the webhook.
        naming: Names of the sensor.
        namings: Names of the services whose runs the sensor looks at.
        automation: Whether the sensor starts out stopped; it starts no runs, so that `"off"` keeps it.
    """
    if settings.alert_webhook_url is None:
        return []
    from dicom_assets.network.webhook import post_alert

    send = partial(post_alert, settings.alert_webhook_url.get_secret_value())
    name, running = naming.name("alert_on_failure"), automation != "stopped"
    return [build_alert_sensor(send, settings.dagster_url, name=name, namings=namings, running=running)]


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
