"""Storage of the lake: a local folder or a file system of Azure Data Lake Storage."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from dicom_assets.core.errors import (
    LakeRefusedError,
    LakeUnavailableError,
    ServiceError,
    ServiceRefusedError,
    SettingsError,
)
from dicom_assets.identity.tokens import REFRESH_BEFORE_EXPIRY_SECONDS, Tokens, read_claims
from dicom_assets.lake.storage.errors import LAKE, Place, Refusal, Signing, explain_refusal
from dicom_assets.lake.storage.range_file import RangeFile

if TYPE_CHECKING:
    from obstore.store import AzureCredential

STORAGE_SCOPE = "https://storage.azure.com/.default"
"""Scope of the tokens for Azure storage, whatever the account and the cloud."""

REQUEST_SECONDS = 240
"""Time that one request to an account may take, its content included. The native clients' default of 30 seconds is too
short for some megabytes on a slow line, where every try would end."""
RETRYING_SECONDS = REFRESH_BEFORE_EXPIRY_SECONDS - 10
"""Time after which no further try begins. All tries use one token, which is valid for longer, unless it could not be
renewed."""

_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_KNOWN_HOSTS = ".core.windows.net"
_SIGNING = {"account_key": Signing.KEY, "sas_token": Signing.SAS, "bearer_token": Signing.IDENTITY}


def _no_options() -> dict[str, str]:
    return {}


def azure_options(
    tokens: Tokens | None,
    account: str,
    endpoint: str | None = None,
    *,
    account_key: str | None = None,
    sas_token: str | None = None,
) -> dict[str, str]:
    """Return the options of delta-rs for an account, with a credential that is valid for the next operation.

    Args:
        tokens: tokens of the identity for `STORAGE_SCOPE`; used where there is neither key nor SAS token.
        account: name of the storage account.
        endpoint: URL of an emulator on this machine, the account included; None for Azure.
        account_key: key of the account.
        sas_token: SAS token, with or without the question mark of the URL that it came from.

    Raises:
        SettingsError: there is no credential. Without this error the native clients would use the machine's identity.
        LakeRefusedError: the identity is refused a token, which a retry cannot change.
        LakeUnavailableError: the identity gets no token at the moment.
    """
    options = {"account_name": account}
    if endpoint is not None:
        options["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
    if account_key is not None:
        return {**options, "account_key": account_key}
    if sas_token is not None:
        return {**options, "sas_token": sas_token.removeprefix("?")}
    if tokens is None:
        raise SettingsError(
            f"There is nothing to sign in to the storage account {account} with: DICOM_AUTHENTICATION=none. Choose an "
            "identity, or set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN."
        )
    try:
        return {**options, "bearer_token": tokens.current().token}
    except ServiceError as error:
        kind = LakeRefusedError if isinstance(error, ServiceRefusedError) else LakeUnavailableError
        raise kind(f"The lake in the storage account {account} cannot be reached. {error}") from error


@dataclass(frozen=True)
class Storage:
    """Folder of tables, and the credential to reach it."""

    url: str
    """Local path, or `abfss://fileSystem@account.dfs.core.windows.net`."""
    options: Callable[[], dict[str, str]] = _no_options
    """Function that returns the options of delta-rs; called before every operation, since tokens expire."""

    @property
    def is_local(self) -> bool:
        """True if the lake is a folder on this machine."""
        return "://" not in self.url

    def uri(self, path: str) -> str:
        """Return the location of a table, for people."""
        return str(Path(self.url).absolute() / path) if self.is_local else f"{self.url.rstrip('/')}/{path}"

    def address(self, path: str) -> tuple[str, dict[str, str]]:
        """Return URL and options of a table for delta-rs.

        For hosts outside Azure's public cloud, which delta-rs does not know, the options have the endpoint.

        Raises:
            LakeRefusedError: delta-rs would look for the table in another folder.
        """
        if self.is_local:
            uri = self.uri(path)
            if found := _ENCODED.search(uri):
                raise LakeRefusedError(
                    f"The table at {uri} cannot be opened: the Delta library takes a percent sign and two hexadecimal "
                    f"digits ({found[0]}) in a folder's name for another character, and would look into "
                    "another folder. Nothing was written. Rename the folder, or set DICOM_STORAGE_URL and "
                    "DICOM_CONTAINER_NAME to another one."
                )
            return uri, dict(self.options())
        url, host = urlsplit(self.url), str(urlsplit(self.url).hostname)
        options = {"timeout": f"{REQUEST_SECONDS}s", "retry_timeout": f"{RETRYING_SECONDS}s", **self.options()}
        if host.endswith(_KNOWN_HOSTS):
            return self.uri(path), options
        return f"az://{url.username}/{path}", {"endpoint": f"https://{host.replace('.dfs.', '.blob.', 1)}"} | options

    def open_store(self, path: str) -> ObjectStore:
        """Open a table's folder as an object store, which renews its credential as often as necessary."""
        if self.is_local:
            return LocalStore(self.uri(path), mkdir=True)
        address, options = self.address(path)
        places = {name: value for name, value in options.items() if name in ("account_name", "endpoint")}
        http = {"allow_http": options.get("allow_http") == "true", "timeout": timedelta(seconds=REQUEST_SECONDS)}
        with self.explained(path, "open"):
            return from_url(
                address,
                config=cast(Any, places),
                client_options=cast(Any, http),
                retry_config={"retry_timeout": timedelta(seconds=RETRYING_SECONDS)},
                # As an option, a SAS token would yield to a client secret in the environment, and a token would expire.
                credential_provider=self._credential if _signing(options) else None,
            )

    def open_file(self, store: ObjectStore, path: str, name: str, size_bytes: int) -> RangeFile | str:
        """Return a table's file for pyarrow: the path of a local file, else a file object that reads ranges."""
        return f"{self.uri(path)}/{name}" if self.is_local else RangeFile(store, name, size_bytes)

    @contextmanager
    def explained(self, path: str, doing: str) -> Iterator[None]:
        """Open a context that raises storage's refusals as LakeUnavailableError or LakeRefusedError.

        A lost commit and an absent table pass unchanged: they are answers, not refusals.

        Args:
            path: folder of the table.
            doing: verb phrase of the message, such as "read": what the code inside does to the table.
        """
        try:
            yield
        except (CommitFailedError, TableNotFoundError):
            raise
        except (OSError, DeltaError, BaseError, pa.ArrowException) as error:
            if self.is_local:
                raise LakeUnavailableError(
                    f"Could not {doing} {self.uri(path)}: {_reason(error)}. Check that DICOM_STORAGE_URL names a "
                    "folder this user may write to, with space left."
                ) from error
            refusal = self.explain(error, LAKE)
            kind = LakeRefusedError if refusal.is_final else LakeUnavailableError
            # The native error's text may hold requests: it does not travel along.
            raise kind(f"Could not {doing} {self.uri(path)}: {refusal.reason}. {refusal.advice}") from None

    def explain(self, error: Exception, place: Place) -> Refusal:
        """Return the meaning of a refusal of the account.

        Args:
            error: error of a native client.
            place: settings and rights of the place that was to be reached.
        """
        options = self.options()
        signing = _signing(options) or Signing.IDENTITY
        end = _end(options)
        has_expired = end is not None and end <= time.time()
        return explain_refusal(str(error) or type(error).__name__, signing, place, has_expired=has_expired)

    def _credential(self) -> "AzureCredential":
        """Return the credential of obstore's next request.

        obstore asks for every request, since a token is declared to expire at once.
        """
        options, now = self.options(), datetime.fromtimestamp(time.time(), UTC)
        match _signing(options):
            case Signing.KEY:
                return {"access_key": options["account_key"], "expires_at": None}
            case Signing.SAS:
                return {"sas_token": options["sas_token"], "expires_at": None}
            case _:
                return {"token": options["bearer_token"], "expires_at": now}


def _signing(options: dict[str, str]) -> Signing | None:
    return next((signing for name, signing in _SIGNING.items() if name in options), None)


def _end(options: dict[str, str]) -> float | None:
    """Return the expiry of the token among the options, in seconds since 1970; None where no token states one."""
    if "bearer_token" in options:
        end = (read_claims(options["bearer_token"]) or {}).get("exp")
        return end if isinstance(end, int | float) else None
    with suppress(KeyError, ValueError):
        end = datetime.fromisoformat(dict(parse_qsl(options["sas_token"]))["se"])
        return end.replace(tzinfo=end.tzinfo or UTC).timestamp()
    return None


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, shortened: the other lines are a trace of requests."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")
