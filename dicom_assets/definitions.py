"""The code location: Dagster definitions built from the settings in the environment."""

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import dagster as dg

from dicom_assets.core.memory import MemoryLimit
from dicom_assets.lake.memory import choose_memory_pool

choose_memory_pool()

from dicom_assets.config.connections import (
    IMPATIENT,
    build_auth,
    build_lake,
    build_repair,
    open_client,
    open_impatient_client,
)
from dicom_assets.config.services import load_services
from dicom_assets.config.settings import Settings
from dicom_assets.core.finding import Finding
from dicom_assets.defs.assets.assets import build_assets
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.assets.resources import DicomServiceResource
from dicom_assets.defs.automation.automation import Automation, build_automation
from dicom_assets.defs.automation.catch_up import Limits
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.jobs.alerts import build_alert_sensor
from dicom_assets.defs.jobs.audit_lake import build_watch
from dicom_assets.defs.jobs.doctor import build_doctor_job
from dicom_assets.defs.jobs.fabric_shortcuts import build_fabric_jobs
from dicom_assets.defs.jobs.maintain_lake import build_upkeep
from dicom_assets.defs.naming import Naming
from dicom_assets.defs.partitions import Hours, build_partitions
from dicom_assets.derive.heal import heal
from dicom_assets.doctor.examination import CHECKS, examine
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.fabric.wanted import has_files, has_lakehouse, has_tables, update_shortcuts


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensor that posts alerts about failed runs, in a list; an empty list where no webhook is set."""
    if settings.alert_webhook_url is None:
        return []
    from dicom_assets.network.webhook import post_alert

    url = settings.alert_webhook_url.get_secret_value()
    return [build_alert_sensor(partial(post_alert, url), settings.dagster_url)]


def build_fabric(settings: Settings, naming: Naming) -> list[dg.JobDefinition]:
    """Return the job that creates Fabric shortcuts, in a list.

    The list is empty where no lakehouse is set, or this service has neither tables nor files to show. Tables that
    several services share get their shortcuts from the first service's job.
    """
    with_tables = has_tables(settings)
    if not (has_lakehouse(settings) and (with_tables or has_files(settings))):
        return []
    return build_fabric_jobs(partial(update_shortcuts, settings, with_tables=with_tables), naming)


def build_definitions(
    settings: Settings, *others: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dg.Definitions:
    """Return the definitions of the code location: those of each service, and the alert sensor.

    Args:
        settings: Settings of the lake and the first service.
        others: Settings of the other services, where there are several.
        now: Returns the current time, with a zone.
    """
    services = [build_service(each, now) for each in (settings, *others)]
    return dg.Definitions.merge(*services, dg.Definitions(sensors=build_alerts(settings)))


def build_service(settings: Settings, now: Callable[[], datetime]) -> dg.Definitions:
    """Return the assets of one service, with its jobs, schedules, sensors and resources.

    No definition is shared with another service.

    Args:
        settings: Settings of the lake and the service.
        now: Returns the current time, with a zone.
    """
    naming = Naming(settings.service_name)
    lake = build_lake(settings)
    memory = MemoryLimit(settings.max_memory_mb)
    tables = {table.name: table for table in settings.tables}
    partitions = build_partitions(
        settings.first_hour, settings.end_time, with_open_hour=settings.sensor_interval_seconds > 0
    )
    delay = timedelta(minutes=settings.window_delay_minutes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill policies are beta; a range in one run needs one
        assets = build_assets(
            tables,
            partitions,
            lake,
            settings.file_url_prefix,
            delay=delay,
            memory=memory,
            feed_pool=settings.change_feed_pool,
            naming=naming,
        )
    auth = cache(lambda: build_auth(settings, retry=IMPATIENT))
    repair = build_repair(settings, lake)
    job, sensors = build_automation(
        assets,
        Automation(
            hours=Hours(settings.first_hour, settings.end_time, delay),
            catch_up=Limits(settings.catch_up_hours_per_run, settings.catch_up_runs),
            interval_seconds=settings.sensor_interval_seconds,
            look_back=timedelta(hours=settings.look_back_hours),
            has_service=settings.service_url is not None,
        ),
        lambda: open_impatient_client(settings, auth()),
        now,
        partial(require_same_lake, lake=lake, tables=settings.tables, naming=naming),
        naming=naming,
    )
    return dg.Definitions(
        assets=assets,
        jobs=[
            job,
            build_doctor_job([check.name for check in CHECKS], partial(_examine, settings, now), naming),
            *build_fabric(settings, naming),
        ],
        schedules=[
            *build_watch(
                lake,
                settings.tables,
                partitions,
                delay,
                now,
                has_service=settings.service_url is not None,
                ask_again=partial(heal, repair, lambda: open_client(settings), now) if settings.service_url else None,
                naming=naming,
            ),
            build_upkeep(repair, naming),
        ],
        sensors=sensors,
        resources={
            naming.name("delta"): DeltaIOManager(lake, tables, memory),
            naming.name("dicom_service"): DicomServiceResource(lambda: open_client(settings), now),
        },
        executor=dg.in_process_executor,
    )


def _examine(settings: Settings, now: Callable[[], datetime], instance: dg.DagsterInstance) -> Iterator[Finding]:
    return examine(Surroundings(lambda: settings, now, service_name=settings.service_name, instance=instance))


defs = build_definitions(*load_services())
