"""Identities: the kinds to choose from, their credentials, and advice where one does not work."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from dicom_assets.core.errors import SettingsError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

DICOM_SCOPE = "https://dicom.healthcareapis.azure.com/.default"
"""Token scope of every instance of Azure's DICOM service."""


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


def advise(authentication: Authentication, host: Host) -> str:
    """Return advice how this kind of identity gets a token on this host, or which other kind fits the host."""
    fits = _WHAT_FITS_THE_HOST.get(host) if authentication in _OF_PEOPLE else None
    return fits or _WHAT_IT_NEEDS[authentication]


def advise_patience(authentication: Authentication, host: Host, *, is_answer: bool) -> str:
    """Return advice for a failure that passes by itself.

    Args:
        authentication: kind of identity.
        host: kind of machine.
        is_answer: whether there was an answer, and not silence.
    """
    if is_answer:
        advice = advise(authentication, host)
        return f"This passes by itself, mostly within a minute: try again then. If it stays: {advice}"
    if authentication is Authentication.MANAGED_IDENTITY:
        return _MACHINE_WAS_ASKED
    if authentication in _OF_PEOPLE:
        return f"{_ENTRA_WAS_ASKED} If no token was ever had here: {advise(authentication, host)}"
    return _ENTRA_WAS_ASKED
