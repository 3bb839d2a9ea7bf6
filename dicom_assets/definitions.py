"""The code location: settings from the environment, wired into assets."""

import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import dagster as dg

from dicom_assets.adapters.credentials import TokenAuth, Tokens
from dicom_assets.adapters.delta import Lake
from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.memory import MemoryLimit, choose_memory_pool
from dicom_assets.adapters.retries import RetryPolicy
from dicom_assets.adapters.storage import STORAGE_SCOPE, Storage, azure_options
from dicom_assets.adapters.webhook import post_alert
from dicom_assets.connections import build_identity
from dicom_assets.core.schema import extend_tables
from dicom_assets.defs.alerts import build_alert_sensor
from dicom_assets.defs.assets import build_assets
from dicom_assets.defs.automation import Automation, build_automation
from dicom_assets.defs.catch_up import Limits
from dicom_assets.defs.fabric import build_fabric_jobs
from dicom_assets.defs.io_manager import DeltaIOManager
from dicom_assets.defs.partitions import Hours, build_partitions
from dicom_assets.defs.resources import DicomServiceResource
from dicom_assets.defs.watch import build_watch
from dicom_assets.fabric import bring_shortcuts, has_lakehouse
from dicom_assets.settings import Settings, load_settings


def build_auth(settings: Settings) -> TokenAuth | None:
    """What puts tokens on requests to the service; None where they go out without one."""
    credential = build_identity(settings)
    if credential is None:
        return None
    return TokenAuth(credential, settings.token_scope, authentication=settings.authentication)


def open_client(settings: Settings) -> DicomService:
    """The service's client.

    Raises:
        SettingsError: there is no service to ask.
    """
    return DicomService(
        settings.require_service_url(),
        auth=build_auth(settings),
        api_version=settings.api_version,
        batch_size=settings.batch_size,
        max_concurrent_requests=settings.max_concurrent_requests,
    )


def open_impatient_client(settings: Settings, auth: TokenAuth | None) -> DicomService:
    """A client for a sensor's tick, which has a minute, and another tick after it.

    Args:
        settings: name the service.
        auth: outlives the client, so that not every tick needs a new token.

    Raises:
        SettingsError: there is no service to ask.
    """
    return DicomService(
        settings.require_service_url(),
        auth=auth,
        api_version=settings.api_version,
        max_concurrent_requests=1,
        timeout=10,
        retry=RetryPolicy(tries=2, longest_wait_seconds=1, longest_retry_after_seconds=2),
    )


def build_lake(settings: Settings) -> Lake:
    """The lake of the settings."""
    return Lake(
        build_storage(settings, settings.lake_url), settings.table_paths, retention_hours=settings.retention_hours
    )


def build_storage(settings: Settings, url: str) -> Storage:
    """A folder, or a container of the account in `DICOM_STORAGE_URL`; nobody signs in before it is used."""
    account = settings.storage_account
    if account is None:
        return Storage(url)

    @cache
    def tokens() -> Tokens | None:
        credential = build_identity(settings)
        if credential is None:
            return None
        return Tokens(credential, STORAGE_SCOPE, authentication=settings.authentication)

    key, sas = settings.azure_storage_account_key, settings.azure_storage_sas_token
    return Storage(
        url,
        lambda: azure_options(
            None if key or sas else tokens(),
            account,
            settings.storage_endpoint,
            account_key=None if key is None else key.get_secret_value(),
            sas_token=None if sas is None else sas.get_secret_value(),
        ),
    )


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensor that tells of failed runs, where there is someone to tell."""
    if settings.alert_webhook_url is None:
        return []
    url = settings.alert_webhook_url.get_secret_value()
    return [build_alert_sensor(partial(post_alert, url), settings.dagster_url)]


def build_fabric(settings: Settings) -> list[dg.JobDefinition]:
    """The job that makes shortcuts, where there is a lakehouse to make them in."""
    return build_fabric_jobs(partial(bring_shortcuts, settings)) if has_lakehouse(settings) else []


def build_definitions(settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> dg.Definitions:
    """Everything Dagster is to know, for these settings.

    Args:
        settings: of the lake and the service.
        now: the time, with a zone.
    """
    choose_memory_pool()
    lake = build_lake(settings)
    memory = MemoryLimit(settings.max_memory_mb)
    tables = {table.name: table for table in extend_tables(settings.extra_columns)}
    partitions = build_partitions(
        settings.first_hour, settings.end_time, with_open_hour=settings.sensor_interval_seconds > 0
    )
    delay = timedelta(minutes=settings.window_delay_minutes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of backfill policies, which a range in one run needs
        assets = build_assets(tables, partitions, lake, settings.file_url_prefix, delay=delay, memory=memory)
    auth = cache(lambda: build_auth(settings))
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
    )
    return dg.Definitions(
        assets=assets,
        jobs=[job, *build_fabric(settings)],
        schedules=build_watch(lake, partitions, delay, now),
        sensors=[*sensors, *build_alerts(settings)],
        resources={
            "delta": DeltaIOManager(lake, tables, memory),
            "dicom_service": DicomServiceResource(lambda: open_client(settings), now),
        },
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_settings())
