"""What the settings name, opened: the identity."""

from dicom_assets.adapters.credentials import Credential, build_credential
from dicom_assets.settings import Settings


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
