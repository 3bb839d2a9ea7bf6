from collections.abc import Iterator
from itertools import count

import pytest
import trustme

from dicom_assets_tests.azure.azurite import Azurite, run_azurite
from dicom_assets_tests.azure.token_server import CLIENT, SECRET, TENANT, TokenServer

NOBODY = "http://127.0.0.1:9"
"""Where nobody listens (discard, a port for privileged users)."""
IDENTITY_VARIABLES = (
    "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT",
    "MSI_ENDPOINT", "MSI_SECRET", "IDENTITY_SERVER_THUMBPRINT", "AZURE_TOKEN_CREDENTIALS",
    "CONTAINER_APP_NAME", "KUBERNETES_SERVICE_HOST", "WEBSITE_INSTANCE_ID",
    "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
)  # fmt: skip
names = count(1)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def authority_file(authority, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return str(file)


@pytest.fixture(autouse=True)
def _no_identity_but_ours(monkeypatch, authority_file) -> None:
    """Every endpoint that identities are asked at by default lies on loopback, for native code too."""
    for name in IDENTITY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", NOBODY)
    monkeypatch.setenv("AZURE_MSI_ENDPOINT", NOBODY)
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", NOBODY.replace("http:", "https:"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SSL_CERT_FILE", authority_file)  # httpx, delta-rs, obstore
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority_file)  # azure-identity


@pytest.fixture(scope="session")
def running_azurite(authority) -> Iterator[Azurite]:
    with run_azurite(authority) as azurite:
        yield azurite


@pytest.fixture
def azurite(running_azurite, authority_file) -> Azurite:
    return running_azurite


@pytest.fixture
def container(azurite) -> str:
    return azurite.create_container(f"lake-{next(names)}")


@pytest.fixture(scope="session")
def running_entra(authority) -> Iterator[TokenServer]:
    with TokenServer().running(authority) as server:
        yield server


@pytest.fixture
def entra(running_entra) -> TokenServer:
    """Microsoft Entra, over https."""
    running_entra.reset()
    return running_entra


@pytest.fixture(scope="session")
def running_machine() -> Iterator[TokenServer]:
    with TokenServer().running() as server:
        yield server


@pytest.fixture
def machine(running_machine) -> TokenServer:
    """Whoever knows the machine's own identity, over http."""
    running_machine.reset()
    return running_machine


@pytest.fixture
def client_secret(entra) -> dict[str, str]:
    """Settings of an application that signs in with a secret."""
    return {
        "DICOM_AUTHENTICATION": "client_secret",
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": CLIENT,
        "AZURE_CLIENT_SECRET": SECRET,
        "AZURE_AUTHORITY_HOST": entra.url,
    }


@pytest.fixture
def account_key(azurite) -> dict[str, str]:
    """Settings of a lake that is reached with the account's key."""
    return {"DICOM_AUTHENTICATION": "none", "AZURE_STORAGE_ACCOUNT_KEY": azurite.key}


@pytest.fixture(params=["account_key", "client_secret"])
def signing(request) -> dict[str, str]:
    return request.getfixturevalue(request.param)


@pytest.fixture
def lake_settings(azurite, container) -> dict[str, str]:
    return {"DICOM_STORAGE_URL": azurite.url, "DICOM_CONTAINER_NAME": container}
