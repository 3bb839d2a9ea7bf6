"""Clients built from settings: identity, DICOM service, lake, storage. Dagster is not imported.

Modules that only some functions need are imported inside them, since every Dagster process imports this module.
"""

from functools import cache, partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicom_assets.config.settings import Settings
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.identity.credentials import Credential, build_credential
from dicom_assets.identity.tokens import Tokens
from dicom_assets.lake.files.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.spark.session import Spark
from dicom_assets.lake.storage.storage import STORAGE_SCOPE, Storage, azure_options
from dicom_assets.lake.table.delta import Lake
from dicom_assets.network.retries import RetryPolicy

if TYPE_CHECKING:
    from dicom_assets.derive.repair import Repair
    from dicom_assets.identity.token_auth import TokenAuth
    from dicom_assets.service.client import DicomService


def build_identity(settings: Settings) -> Credential | None:
    """Return the credential for the service, storage and Fabric; None where requests carry no token."""
    secret = settings.azure_client_secret
    return build_credential(
        settings.authentication,
        tenant_id=settings.azure_tenant_id,
        client_id=settings.azure_client_id,
        client_secret=None if secret is None else secret.get_secret_value(),
        authority=settings.azure_authority_host,
    )


IMPATIENT = RetryPolicy(tries=2, longest_wait_seconds=1, longest_retry_after_seconds=2)
"""Retry policy for a sensor's tick, which has a minute and is followed by another tick."""


def build_auth(settings: Settings, scope: str | None = None, *, retry: RetryPolicy | None = None) -> "TokenAuth | None":
    """Return the authentication for requests to the service or another API; None where they carry no token.

    Args:
        settings: Settings of the service and the identity.
        scope: Scope of the tokens; None means the service's.
        retry: Retry policy of token requests; None means the default.
    """
    tokens = build_tokens(settings, scope or settings.token_scope, retry=retry)
    if tokens is None:
        return None
    from dicom_assets.identity.token_auth import TokenAuth

    return TokenAuth(tokens)


def build_tokens(settings: Settings, scope: str, *, retry: RetryPolicy | None = None) -> Tokens | None:
    """Return the tokens of the settings' identity; None where requests carry no token.

    Args:
        settings: Settings of the identity.
        scope: Scope of the tokens.
        retry: Retry policy of token requests; None means the default.
    """
    credential = build_identity(settings)
    if credential is None:
        return None
    return Tokens(credential, scope, authentication=settings.authentication, host=settings.host, retry=retry)


def open_client(settings: Settings, *, retry: RetryPolicy | None = None) -> "DicomService":
    """Open a client of the service.

    Args:
        settings: Settings of the service and the identity.
        retry: Retry policy of requests; None means the default.

    Raises:
        SettingsError: No service URL is set.
    """
    from dicom_assets.service.client import DicomService

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
    """Open a client with a short timeout and few retries, for a sensor's tick.

    Args:
        settings: Settings of the service.
        auth: Authentication; it outlives the client, so that not every tick needs a new token.

    Raises:
        SettingsError: No service URL is set.
    """
    from dicom_assets.service.client import DicomService

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
    """Return the lake of the settings, with its merge engine."""
    storage = build_storage(settings, settings.lake_url)
    spark = build_spark(settings)
    paths, hours = settings.table_paths, settings.retention_hours
    scope = Scope(settings.service_name) if settings.shares_tables else WHOLE_TABLE
    if spark is None:
        return Lake(storage, paths, retention_hours=hours, scope=scope)
    from dicom_assets.lake.spark.engine import SparkEngine

    return Lake(storage, paths, retention_hours=hours, scope=scope, engine=SparkEngine(spark))


def build_repair(settings: Settings, lake: Lake | None = None) -> "Repair":
    """Return the repair of rows that earlier versions of the project wrote to the lake.

    Args:
        settings: Settings of the lake.
        lake: The lake; None builds it from the settings.
    """
    from dicom_assets.derive.repair import Repair

    memory = MemoryLimit(settings.max_memory_mb)
    return Repair(lake or build_lake(settings), settings.tables, settings.file_url_prefix, memory.entries)


def build_spark(settings: Settings) -> Spark | None:
    """Return the Spark engine, not connected yet; None where the merge engine is not Spark."""
    if settings.merge_engine != "spark":
        return None
    return Spark(None if settings.spark_remote is None else settings.spark_remote.get_secret_value())


def build_storage(settings: Settings, url: str) -> Storage:
    """Return the storage at a URL; it signs in when it is first used.

    The settings' account key, SAS token and emulator apply to the account in the settings; other accounts get the
    identity. With several services, each has an identity for its own requests and files, and the lake's account gets
    the identity of the common settings.

    Args:
        settings: Settings of the lake and the service.
        url: A local folder, or a file system of an account (`abfss://…`).
    """
    if "://" not in url:
        return Storage(url)
    account = str(urlsplit(url).hostname).split(".")[0]
    signer = settings.of_lake if account == settings.storage_account else settings

    tokens = cache(partial(build_tokens, signer, STORAGE_SCOPE))
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
