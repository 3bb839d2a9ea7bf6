"""Azure tokens: whose identity to use, and one token for all who want it at the same time.

Tokens live in memory alone; no message, log or representation holds one.
"""

import base64
import binascii
import ipaddress
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, SettingsError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

logger = logging.getLogger(__name__)

DICOM_SCOPE = "https://dicom.healthcareapis.azure.com/.default"
"""The audience of every instance of Azure's DICOM service."""

REFRESH_BEFORE_EXPIRY_SECONDS = 300
PAUSE_SECONDS = 30
"""Between two attempts to renew a token that is good for a while yet."""
_ENTRA_CODE = re.compile(r"\bAADSTS\d+\b")


class Authentication(StrEnum):
    """Whose identity asks the service; the values of `DICOM_AUTHENTICATION`."""

    DEFAULT = "default"
    MANAGED_IDENTITY = "managed_identity"
    WORKLOAD_IDENTITY = "workload_identity"
    CLIENT_SECRET = "client_secret"  # noqa: S105 — the name of a method, not a secret
    AZURE_CLI = "azure_cli"
    NONE = "none"


class Credential(Protocol):
    """Whatever hands out tokens: any synchronous credential of azure-identity."""

    def get_token(self, *scopes: str, claims: str | None = None, **kwargs: Any) -> "AccessToken":
        """A token for the scopes; with claims, one that does not come from a cache."""


def build_credential(
    authentication: Authentication,
    *,
    tenant_id: str | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    authority: str | None = None,
) -> Credential | None:
    """The credential of the identity that asks; None where requests go out without a token.

    Args:
        authentication: Which kind of identity.
        tenant_id: The Entra tenant, for a client secret or a workload identity.
        client_id: The application, or the user-assigned managed identity; without it the system-assigned one.
        client_secret: The application's secret.
        authority: Where Entra is asked, such as `https://login.microsoftonline.us`; without it the public cloud's.

    Raises:
        SettingsError: the machine or the arguments lack what this kind of identity needs.
    """
    if authentication is Authentication.NONE:
        return None
    from azure import identity  # 0.3 s that runs without a token need not spend

    # An authority that is named is trusted: clouds of one's own cannot be looked up in the public cloud's directory.
    entra: dict[str, Any] = {} if authority is None else {"authority": authority, "disable_instance_discovery": True}
    try:
        match authentication:
            case Authentication.DEFAULT:
                return identity.DefaultAzureCredential(managed_identity_client_id=client_id, **entra)
            case Authentication.MANAGED_IDENTITY:
                return identity.ManagedIdentityCredential(client_id=client_id)
            case Authentication.WORKLOAD_IDENTITY:
                return identity.WorkloadIdentityCredential(tenant_id=tenant_id, client_id=client_id, **entra)
            case Authentication.CLIENT_SECRET:
                return identity.ClientSecretCredential(tenant_id or "", client_id or "", client_secret or "", **entra)
            case Authentication.AZURE_CLI:
                return identity.AzureCliCredential()
            case _:  # pragma: no cover — mypy proves that no kind is missing
                assert_never(authentication)
    except ValueError as error:
        raise SettingsError(
            f"DICOM_AUTHENTICATION={authentication} cannot be used here. "
            f"{_WHAT_IT_NEEDS[authentication]} Or choose another kind of identity."
        ) from error


_WHAT_IT_NEEDS = {
    Authentication.DEFAULT: "Sign in (az login), or give the machine an identity, or set AZURE_TENANT_ID, "
    "AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
    Authentication.MANAGED_IDENTITY: "Give the machine a managed identity; for a user-assigned one set "
    "AZURE_CLIENT_ID to its client id.",
    Authentication.WORKLOAD_IDENTITY: "Give the service account a federated identity, which sets AZURE_TENANT_ID, "
    "AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE.",
    Authentication.CLIENT_SECRET: "Check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, and that the secret "
    "has not expired.",
    Authentication.AZURE_CLI: "Install the Azure CLI and sign in (az login) to the service's tenant.",
    Authentication.NONE: "",
}
_ENTRA_WAS_ASKED = (
    "Check the network and the proxy between here and Microsoft Entra, and that this machine trusts the certificates "
    "on the way."
)
_WHO_WAS_ASKED = {
    Authentication.MANAGED_IDENTITY: "A managed identity is asked for on the machine itself. This one is not in Azure "
    "(choose another DICOM_AUTHENTICATION), or has no identity (give it one), or the address of its metadata is "
    "blocked.",
}


class Tokens:
    """The tokens of one identity for one scope: each asked for once, however many want it, and renewed before its end.

    Azure's credentials keep tokens too, but most of them let every thread ask at once.
    """

    def __init__(
        self,
        credential: Credential,
        scope: str,
        *,
        authentication: Authentication = Authentication.DEFAULT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._credential = credential
        self._scope = scope
        self._authentication = authentication
        self._clock = clock
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._pause_until = 0.0

    def __repr__(self) -> str:
        return f"Tokens(scope={self._scope!r}, authentication={self._authentication.value!r})"

    def current(self) -> "AccessToken":
        """A token that is good for the next request.

        Where nobody who hands out tokens can be reached, that is the last one, as long as it lives.

        Raises:
            ServiceRefusedError: the identity gets no token.
            ServiceUnreachableError: nobody who hands out tokens can be reached.
        """
        with self._lock:
            now = self._clock()
            token = self._token
            if token is None or token.expires_on <= now:
                token = self._token = self._fetch(None)
            elif token.expires_on - now < REFRESH_BEFORE_EXPIRY_SECONDS and now >= self._pause_until:
                try:
                    token = self._token = self._fetch(None)
                except ServiceUnreachableError as error:
                    self._pause_until = now + PAUSE_SECONDS
                    logger.warning("%s The last token is used as long as it lives.", error)
            return token

    def renewed(self, refused: "AccessToken", claims: str) -> "AccessToken":
        """A token instead of one that was refused, from no cache, with the claims that are asked for.

        Raises:
            ServiceError: as `current`.
        """
        with self._lock:
            token = self._token
            if token is None or token is refused:  # else another request has renewed it meanwhile
                token = self._token = self._fetch(claims)
            return token

    def _fetch(self, claims: str | None) -> "AccessToken":
        from azure.core.exceptions import AzureError

        try:
            if claims is None:
                return self._credential.get_token(self._scope)
            return self._credential.get_token(self._scope, claims=claims)
        except (AzureError, OSError) as error:  # OSError: the file of a workload identity's token
            if (silence := _silence_behind(error)) is not None:
                raise ServiceUnreachableError(
                    f"No token for {self._scope}: nobody who hands them out could be reached "
                    f"({type(silence).__name__}). {_WHO_WAS_ASKED.get(self._authentication, _ENTRA_WAS_ASKED)}"
                ) from error
            code = _ENTRA_CODE.search(str(error))
            reason = f"{type(error).__name__}, {code[0]}" if code else type(error).__name__
            raise ServiceRefusedError(
                f"No token for {self._scope}: DICOM_AUTHENTICATION={self._authentication} did not work ({reason}). "
                f"{_WHAT_IT_NEEDS[self._authentication]}"
            ) from error


def _silence_behind(error: BaseException) -> BaseException | None:
    """The missing answer that made a credential fail: most credentials report it as a failed sign-in."""
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ServiceRequestError | ServiceResponseError):
        cause = cause.__cause__
    return cause


def read_claims(token: str) -> Mapping[str, Any] | None:
    """The token's claims, its signature unchecked: that is the service's business. None where it is no JWT."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def is_loopback(host: str) -> bool:
    """Whether what is sent to the host stays on this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
