"""What the settings name, opened: the identity, the DICOM service, the lake. Without Dagster.

What only some of it needs is imported where it is needed: every process of Dagster's imports this.
"""

from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicom_assets.adapters.credentials import Credential, Tokens, build_credential
from dicom_assets.adapters.delta import Lake
from dicom_assets.adapters.memory import MemoryLimit
from dicom_assets.adapters.retries import RetryPolicy
from dicom_assets.adapters.spark_session import Spark
from dicom_assets.adapters.storage import STORAGE_SCOPE, Storage, azure_options
from dicom_assets.settings import Settings

if TYPE_CHECKING:
    from dicom_assets.adapters.dicom_service import DicomService
    from dicom_assets.adapters.repair import Repair
    from dicom_assets.adapters.token_auth import TokenAuth


def build_identity(settings: Settings) -> Credential | None:
    """Whatever hands out tokens, for the service, storage and Fabric; None where requests go out without one."""
    secret = settings.azure_client_secret
    return build_credential(
        settings.authentication,
        tenant_id=settings.azure_tenant_id,
        client_id=settings.azure_client_id,
        client_secret=None if secret is None else secret.get_secret_value(),
        authority=settings.azure_authority_host,
    )


IMPATIENT = RetryPolicy(tries=2, longest_wait_seconds=1, longest_retry_after_seconds=2)
"""Of a sensor's tick, which has a minute, and another tick after it."""


def build_auth(settings: Settings, *, retry: RetryPolicy | None = None) -> "TokenAuth | None":
    """What puts tokens on requests to the service; None where they go out without one.

    Args:
        settings: that name the service, and the identity that asks.
        retry: when to ask for a token again, where not as usual.
    """
    credential = build_identity(settings)
    if credential is None:
        return None
    from dicom_assets.adapters.token_auth import TokenAuth

    return TokenAuth(
        credential,
        settings.token_scope,
        authentication=settings.authentication,
        host=settings.host,
        retry=retry,
    )


def open_client(settings: Settings, *, retry: RetryPolicy | None = None) -> "DicomService":
    """The service's client.

    Args:
        settings: that name the service, and the identity that asks.
        retry: when to send a request again, where not as usual.

    Raises:
        SettingsError: there is no service to ask.
    """
    from dicom_assets.adapters.dicom_service import DicomService

    return DicomService(
        settings.require_service_url(),
        auth=build_auth(settings),
        api_version=settings.api_version,
        batch_size=settings.batch_size,
        max_concurrent_requests=settings.max_concurrent_requests,
        retry=retry,
        page_bytes=MemoryLimit(settings.max_memory_mb).page_bytes,
    )


def open_impatient_client(settings: Settings, auth: "TokenAuth | None") -> "DicomService":
    """A client for a sensor's tick, which has a minute, and another tick after it.

    Args:
        settings: name the service.
        auth: outlives the client, so that not every tick needs a new token.

    Raises:
        SettingsError: there is no service to ask.
    """
    from dicom_assets.adapters.dicom_service import DicomService

    return DicomService(
        settings.require_service_url(),
        auth=auth,
        api_version=settings.api_version,
        max_concurrent_requests=1,
        timeout=10,
        page_bytes=MemoryLimit(settings.max_memory_mb).page_bytes,
        retry=IMPATIENT,
    )


def build_lake(settings: Settings) -> Lake:
    """The lake of the settings, with the engine that merges there."""
    storage = build_storage(settings, settings.lake_url)
    spark = build_spark(settings)
    paths, hours = settings.table_paths, settings.retention_hours
    service = settings.service_name if settings.shares_tables else None
    if spark is None:
        return Lake(storage, paths, retention_hours=hours, service=service)
    from dicom_assets.adapters.spark import SparkLake

    return SparkLake(storage, paths, spark=spark, retention_hours=hours, service=service)


def build_repair(settings: Settings, lake: Lake | None = None) -> "Repair":
    """Return the repair of the rows that earlier versions left in the lake of the settings."""
    from dicom_assets.adapters.memory import MemoryLimit
    from dicom_assets.adapters.repair import Repair

    memory = MemoryLimit(settings.max_memory_mb)
    return Repair(lake or build_lake(settings), settings.tables, settings.file_url_prefix, memory.entries)


def build_spark(settings: Settings) -> Spark | None:
    """The Spark that is to merge, not yet asked; None where none is to."""
    if settings.merge_engine != "spark":
        return None
    return Spark(None if settings.spark_remote is None else settings.spark_remote.get_secret_value())


def build_storage(settings: Settings, url: str) -> Storage:
    """A folder, or a file system of an account (`abfss://…`); nobody signs in before it is used.

    Of the account in the settings their key, SAS token and emulator count; other accounts see the identity. Of several
    services each has an identity, for its own requests and files, and the lake's account sees that of none of them.
    """
    if "://" not in url:
        return Storage(url)
    account = str(urlsplit(url).hostname).split(".")[0]
    signer = settings.of_lake if account == settings.storage_account else settings

    @cache
    def tokens() -> Tokens | None:
        credential = build_identity(signer)
        if credential is None:
            return None
        return Tokens(credential, STORAGE_SCOPE, authentication=signer.authentication, host=signer.host)

    endpoint = key = sas = None
    if account == settings.storage_account:
        endpoint, key, sas = (
            settings.storage_endpoint,
            settings.azure_storage_account_key,
            settings.azure_storage_sas_token,
        )
    return Storage(
        url,
        lambda: azure_options(
            None if key or sas else tokens(),
            account,
            endpoint,
            account_key=None if key is None else key.get_secret_value(),
            sas_token=None if sas is None else sas.get_secret_value(),
        ),
    )
