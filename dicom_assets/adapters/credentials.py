"""Azure tokens: whose identity to use, and one token for all who want it at the same time.

Tokens live in memory alone; no message, log or representation holds one.
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

from dicom_assets.adapters.retries import RetryPolicy, WorthAnotherTryError
from dicom_assets.adapters.token_failures import Transient, find_code, find_transient, recording
from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, SettingsError

if TYPE_CHECKING:
    import tenacity
    from azure.core.credentials import AccessToken

logger = logging.getLogger(__name__)

DICOM_SCOPE = "https://dicom.healthcareapis.azure.com/.default"
"""The audience of every instance of Azure's DICOM service."""

REFRESH_BEFORE_EXPIRY_SECONDS = 300
"""The life that is left of a token when a new one is asked for."""
PAUSE_SECONDS = 30
"""Between two attempts to renew a token that is good for a while yet."""
_RETRY = RetryPolicy(tries=4)
"""Of a token request without which nothing goes on: it waits 3.5 seconds in all at most, unless `Retry-After` asks for
more. Longer troubles are for whoever asked."""


class Authentication(StrEnum):
    """Whose identity asks the service; the values of `DICOM_AUTHENTICATION`."""

    DEFAULT = "default"
    MANAGED_IDENTITY = "managed_identity"
    WORKLOAD_IDENTITY = "workload_identity"
    CLIENT_SECRET = "client_secret"  # noqa: S105 — the name of a method, not a secret
    AZURE_CLI = "azure_cli"
    NONE = "none"


class Host(StrEnum):
    """The machine's kind, as far as it decides which identity fits."""

    AZURE = "azure"
    """A virtual machine, App Service, Container Apps and others that may have a managed identity."""
    KUBERNETES = "kubernetes"
    TERMINAL = "terminal"
    """Somebody sits at the machine, and can sign in."""
    UNKNOWN = "unknown"


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

    from dicom_assets.adapters.token_transport import build_options

    # An authority that is named is trusted: clouds of one's own cannot be looked up in the public cloud's directory.
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
"""Identities that may be a person's, who is not there to sign in on every host."""
_ENTRA_WAS_ASKED = (
    "Check the network and the proxy between here and Microsoft Entra, and that this machine trusts the certificates "
    "on the way."
)
_MACHINE_WAS_ASKED = (
    "A managed identity is asked for on the machine itself. This one is not in Azure (choose another "
    "DICOM_AUTHENTICATION), or has no identity (give it one), or the address of its metadata is blocked."
)


def _advise(authentication: Authentication, host: Host) -> str:
    """Return what gives this kind of identity a token on this host, or which other kind fits it."""
    fits = _WHAT_FITS_THE_HOST.get(host) if authentication in _OF_PEOPLE else None
    return fits or _WHAT_IT_NEEDS[authentication]


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
        host: Host = Host.UNKNOWN,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Nobody is asked before a token is wanted.

        Args:
            credential: hands out tokens.
            scope: of the tokens.
            authentication: the credential's kind.
            host: the machine's kind, for advice.
            retry: when a request without which nothing goes on is sent again, where not as usual.
            clock: gives seconds since 1970.
            sleep: waits so many seconds, where that is not to be done as usual.
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
        """Return a token that is good for the next request.

        If a new one cannot be had, for whatever reason, that is the last one, as long as it lives.

        Raises:
            ServiceRefusedError: the identity gets no token.
            ServiceUnreachableError: who hands out tokens cannot be reached, or is in trouble that passes.
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
        """Return a token instead of one that was refused, from no cache, with the claims that are asked for.

        Raises:
            ServiceError: as `current`.
        """
        with self._lock:
            token = self._token
            if token is None or token is refused:  # else another request has renewed it meanwhile
                return self._fetch(claims)
            return token

    def _renew_early(self, living: "AccessToken") -> "AccessToken":
        """Return a new token, or the living one: nobody waits for further tries while there is one."""
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
        """Return a new token, which is kept; what passes by itself is tried again."""

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
        """Return a new token, asked for once.

        Raises:
            _TransientError: asking again may help.
            ServiceRefusedError: it would not.
        """
        from azure.core.exceptions import AzureError

        with recording() as record:
            try:
                if claims is None:
                    token = self._credential.get_token(self._scope)
                else:
                    token = self._credential.get_token(self._scope, claims=claims)
            # OSError: the file of a workload identity's token; ValueError: an answer that is no JSON.
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
        """Whether the identity is found by trying, and was found: its failures seldom tell their reason."""
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
    """A token request that may succeed another time."""

    def __init__(self, transient: Transient, host: Host) -> None:
        super().__init__(transient.reason, transient.retry_after_seconds)
        self.is_answer = transient.is_answer
        self.host = host


def read_claims(token: str) -> Mapping[str, Any] | None:
    """The token's claims, its signature unchecked: that is the service's business. None where it is no JWT."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, binascii.Error, ValueError, RecursionError):
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
