"""Azure tokens: the choice of an identity, and one token for all threads that need one at the same time.

Tokens are kept in memory only; no message, log or representation contains one.
"""

import base64
import binascii
import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, SettingsError
from dicom_assets.identity.token_failures import Transient, find_code, find_transient, recording
from dicom_assets.network.retries import RetryPolicy, WorthAnotherTryError

if TYPE_CHECKING:
    import tenacity
    from azure.core.credentials import AccessToken

logger = logging.getLogger(__name__)

DICOM_SCOPE = "https://dicom.healthcareapis.azure.com/.default"
"""Token scope of every instance of Azure's DICOM service."""

REFRESH_BEFORE_EXPIRY_SECONDS = 300
"""Seconds before a token's expiry from which on a new token is requested."""
PAUSE_SECONDS = 30
"""Seconds between two attempts to renew a token that is still valid."""
_RETRY = RetryPolicy(tries=4)
"""Retry policy of a token request that the caller must wait for. It waits at most 3.5 seconds in all, unless a
`Retry-After` demands more; if the failure lasts longer, the caller gets an error."""


class Authentication(StrEnum):
    """Kind of identity that signs in to the service; the values of `DICOM_AUTHENTICATION`."""

    DEFAULT = "default"
    MANAGED_IDENTITY = "managed_identity"
    WORKLOAD_IDENTITY = "workload_identity"
    CLIENT_SECRET = "client_secret"  # noqa: S105 — the name of a method, not a secret
    AZURE_CLI = "azure_cli"
    NONE = "none"


class Host(StrEnum):
    """Kind of machine, as far as it decides which identity fits."""

    AZURE = "azure"
    """A virtual machine, App Service, Container Apps and others that may have a managed identity."""
    KUBERNETES = "kubernetes"
    TERMINAL = "terminal"
    """An interactive session, in which a person can sign in."""
    UNKNOWN = "unknown"


class Credential(Protocol):
    """Source of tokens, such as any synchronous credential of azure-identity."""

    def get_token(self, *scopes: str, claims: str | None = None, **kwargs: Any) -> "AccessToken":
        """Return a token for the scopes; with claims, a token that does not come from a cache."""


def build_credential(
    authentication: Authentication,
    *,
    tenant_id: str | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    authority: str | None = None,
) -> Credential | None:
    """Return the credential of an identity; None if requests are sent without a token.

    Args:
        authentication: kind of identity.
        tenant_id: the Entra tenant, for a client secret or a workload identity.
        client_id: ID of the application or of the user-assigned managed identity; None for the system-assigned one.
        client_secret: the application's secret.
        authority: URL of Entra, such as `https://login.microsoftonline.us`; None for the public cloud's.

    Raises:
        SettingsError: the machine or the arguments lack what this kind of identity needs.
    """
    if authentication is Authentication.NONE:
        return None
    from azure import identity  # takes 0.3 s, which runs without a token save

    from dicom_assets.identity.token_transport import build_options

    # A configured authority is trusted: the public cloud's directory does not list private clouds.
    options = build_options()
    entra = options if authority is None else {**options, "authority": authority, "disable_instance_discovery": True}
    try:
        match authentication:
            case Authentication.DEFAULT:
                return identity.DefaultAzureCredential(managed_identity_client_id=client_id, **entra)
            case Authentication.MANAGED_IDENTITY:
                return identity.ManagedIdentityCredential(client_id=client_id, **options)
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
_WHAT_FITS_THE_HOST = {
    Host.AZURE: "This machine is in Azure: set DICOM_AUTHENTICATION=managed_identity, and give it a managed "
    "identity; for a user-assigned one set AZURE_CLIENT_ID to its client id.",
    Host.KUBERNETES: "This runs on Kubernetes: set DICOM_AUTHENTICATION=workload_identity, and give the service "
    "account a federated identity, which sets AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE.",
    Host.TERMINAL: "Sign in (az login) to the service's tenant, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET.",
}
_OF_PEOPLE = (Authentication.DEFAULT, Authentication.AZURE_CLI)
"""Kinds of identity that may be a person's. Not on every host a person can sign in."""
_ENTRA_WAS_ASKED = (
    "Check the network and the proxy between here and Microsoft Entra, and that this machine trusts the certificates "
    "on the way."
)
_MACHINE_WAS_ASKED = (
    "A managed identity is asked for on the machine itself. This one is not in Azure (choose another "
    "DICOM_AUTHENTICATION), or has no identity (give it one), or the address of its metadata is blocked."
)


def _advise(authentication: Authentication, host: Host) -> str:
    """Return advice how this kind of identity gets a token on this host, or which other kind fits the host."""
    fits = _WHAT_FITS_THE_HOST.get(host) if authentication in _OF_PEOPLE else None
    return fits or _WHAT_IT_NEEDS[authentication]


class Tokens:
    """Tokens of one identity for one scope, shared by all threads: requested once, and renewed before they expire.

    Azure's credentials cache tokens too, but most of them let every thread send its own request at the same time.
    """

    def __init__(
        self,
        credential: Credential,
        scope: str,
        *,
        authentication: Authentication = Authentication.DEFAULT,
        host: Host = Host.UNKNOWN,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Create the tokens' holder; the first request is sent when a token is needed.

        Args:
            credential: source of the tokens.
            scope: scope of the tokens.
            authentication: the credential's kind.
            host: the machine's kind, for advice in errors.
            retry: when to retry a request that the caller must wait for; None for the default policy.
            clock: returns seconds since 1970.
            sleep: waits for some seconds; None for the default wait.
        """
        self._credential = credential
        self._scope = scope
        self._authentication = authentication
        self._host = host
        self._retry = retry or _RETRY
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._has_given = False
        self._pause_until = 0.0

    def __repr__(self) -> str:
        return f"Tokens(scope={self._scope!r}, authentication={self._authentication.value!r})"

    def current(self) -> "AccessToken":
        """Return a token that is valid for the next request.

        If a new token cannot be obtained, for whatever reason, the last token is returned until it expires.

        Raises:
            ServiceRefusedError: the identity gets no token.
            ServiceUnreachableError: the source of tokens cannot be reached, or fails temporarily.
        """
        with self._lock:
            now = self._clock()
            token = self._token
            if token is None or token.expires_on <= now:
                return self._fetch(None)
            if token.expires_on - now < REFRESH_BEFORE_EXPIRY_SECONDS and now >= self._pause_until:
                return self._renew_early(token)
            return token

    def renewed(self, refused: "AccessToken", claims: str) -> "AccessToken":
        """Return a token in place of a refused token, with the requested claims, and not from a cache.

        Raises:
            ServiceError: as `current`.
        """
        with self._lock:
            token = self._token
            if token is None or token is refused:  # else another thread has renewed it meanwhile
                return self._fetch(claims)
            return token

    def _renew_early(self, living: "AccessToken") -> "AccessToken":
        """Return a new token after one try, or else the still valid token, so that no caller waits for retries."""
        wait = float(PAUSE_SECONDS)
        try:
            self._token = self._ask(None)
        except ServiceRefusedError as error:
            reason = str(error)
        except _TransientError as error:
            reason = f"No token for {self._scope}: {error}."
            wait = max(wait, min(error.retry_after_seconds or 0.0, self._retry.longest_retry_after_seconds))
        else:
            return self._token
        now = self._clock()
        self._pause_until = now + wait
        if living.expires_on <= now:
            return self._fetch(None)
        logger.warning("%s The last token is used as long as it lives.", reason)
        return living

    def _fetch(self, claims: str | None) -> "AccessToken":
        """Return a new token and keep it; retry after temporary failures."""

        def log(state: "tenacity.RetryCallState") -> None:
            logger.warning(
                "No token for %s: %s. Try %d of %d follows in %.1f s.",
                *(self._scope, state.outcome.exception() if state.outcome else ""),
                *(state.attempt_number + 1, self._retry.tries, state.upcoming_sleep),
            )

        try:
            self._token = token = self._retry.retrying(log, self._sleep)(self._ask, claims)
        except _TransientError as error:
            raise ServiceUnreachableError(
                f"No token for {self._scope}: {error}, {self._retry.tries} times. {self._advise_patience(error)}"
            ) from error.__cause__
        return token

    def _ask(self, claims: str | None) -> "AccessToken":
        """Return a new token, by one request.

        Raises:
            _TransientError: a retry may succeed.
            ServiceRefusedError: a retry would not succeed.
        """
        from azure.core.exceptions import AzureError

        with recording() as record:
            try:
                if claims is None:
                    token = self._credential.get_token(self._scope)
                else:
                    token = self._credential.get_token(self._scope, claims=claims)
            # OSError: the token file of a workload identity; ValueError: an answer that is not JSON.
            except (AzureError, OSError, ValueError) as error:
                host = Host.AZURE if record.is_in_azure and self._host is not Host.KUBERNETES else self._host
                code = find_code(error)
                transient = find_transient(error, record)
                if transient is None and code is None and claims is None and self._is_chain_that_worked:
                    transient = Transient(
                        f"no way to sign in gave one, though one did before ({type(error).__name__})", True
                    )
                if transient is not None:
                    raise _TransientError(transient, host) from error
                reason = f"{type(error).__name__}, {code}" if code else type(error).__name__
                raise ServiceRefusedError(
                    f"No token for {self._scope}: DICOM_AUTHENTICATION={self._authentication} did not work ({reason}). "
                    f"{_advise(self._authentication, host)}"
                ) from error
        self._has_given = True
        return token

    @property
    def _is_chain_that_worked(self) -> bool:
        """True if DefaultAzureCredential, which tries identities in turn, has worked before.

        Its failures seldom show their reason.
        """
        return self._has_given and self._authentication is Authentication.DEFAULT

    def _advise_patience(self, error: "_TransientError") -> str:
        if error.is_answer:
            return (
                "This passes by itself, mostly within a minute: try again then. If it stays: "
                f"{_advise(self._authentication, error.host)}"
            )
        if self._authentication is Authentication.MANAGED_IDENTITY:
            return _MACHINE_WAS_ASKED
        if self._authentication in _OF_PEOPLE:
            return f"{_ENTRA_WAS_ASKED} If no token was ever had here: {_advise(self._authentication, error.host)}"
        return _ENTRA_WAS_ASKED


class _TransientError(WorthAnotherTryError):
    """A failed token request that may succeed on a retry."""

    def __init__(self, transient: Transient, host: Host) -> None:
        super().__init__(transient.reason, transient.retry_after_seconds)
        self.is_answer = transient.is_answer
        self.host = host


def read_claims(token: str) -> Mapping[str, Any] | None:
    """Return the token's claims, with the signature unchecked (the service checks it); None if it is not a JWT."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, binascii.Error, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def is_loopback(host: str) -> bool:
    """Return whether requests to the host stay on this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
