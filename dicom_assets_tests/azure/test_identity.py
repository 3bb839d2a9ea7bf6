"""azure-identity's own code against whoever hands out tokens on loopback, and the service that checks them."""

import base64
import json
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from logging.config import dictConfig

import pytest
from azure.core.pipeline.transport import RequestsTransport
from starlette.responses import Response

from dicom_assets.adapters.credentials import DICOM_SCOPE
from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError
from dicom_assets.definitions import open_client
from dicom_assets.emulator.server import serve
from dicom_assets.emulator.store import Service
from dicom_assets.services import load_services
from dicom_assets.settings import load_settings
from dicom_assets_tests.azure.token_server import ASSERTION, CLIENT, HEADER, SECRET, TENANT, TokenServer

AUDIENCE = DICOM_SCOPE.removesuffix("/.default")
Environment = dict[str, str]


def serves_app_service(machine: TokenServer, monkeypatch) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{machine.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", HEADER)


def serves_metadata(machine: TokenServer, monkeypatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", machine.url)


@pytest.fixture
def workload(entra, monkeypatch, tmp_path) -> Environment:
    (tmp_path / "token").write_text(ASSERTION)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    variables = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_AUTHORITY_HOST": entra.url}
    return {"DICOM_AUTHENTICATION": "workload_identity", **variables}


class Hospital:
    """A service that wants tokens for its audience, and clients of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[str] = []
        self.refuses: Callable[[int], bool] = lambda number: False

    def intercept(self, request) -> Response | None:
        self.seen.append(request.headers["Authorization"])
        if self.refuses(len(self.seen)):
            return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return None

    def client(self, environment: Environment):
        start = {"DICOM_SERVICE_URL": self.url, "DICOM_START_TIME": "2026-03-01T00:00Z"}
        return open_client(load_settings(start | environment))


@pytest.fixture
def hospital():
    hospital = Hospital("")
    with Service() as service, serve(service, audience=AUDIENCE, intercept=hospital.intercept) as hospital.url:
        yield hospital


# Kinds of identity


@pytest.mark.parametrize("client_id", [None, CLIENT], ids=["system", "user"])
@pytest.mark.parametrize(
    ("place", "path", "header"),
    [
        (serves_app_service, "/msi/token", ("x-identity-header", HEADER)),
        (serves_metadata, "/metadata/identity/oauth2/token", ("metadata", "true")),
    ],
    ids=["App Service", "virtual machine"],
)
def test_managed_identity_reads_the_service(hospital, machine, monkeypatch, place, path, header, client_id):
    place(machine, monkeypatch)
    user_assigned = {} if client_id is None else {"AZURE_CLIENT_ID": client_id}
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity", **user_assigned}) as client:
        assert client.fetch_latest() is None
    (request,) = machine.requests
    assert request.path == path
    assert request.headers[header[0]] == header[1]
    assert request.params["resource"] == AUDIENCE
    assert request.params.get("client_id") == client_id


def test_default_finds_the_managed_identity(hospital, machine, monkeypatch):
    serves_app_service(machine, monkeypatch)
    with hospital.client({"DICOM_AUTHENTICATION": "default"}) as client:
        assert client.fetch_latest() is None
    assert machine.requests[0].audience == AUDIENCE


@pytest.mark.parametrize(
    ("kind", "proof"),
    [("client_secret", {"client_secret": SECRET}), ("workload", {"client_assertion": ASSERTION})],
)
def test_application_reads_the_service(hospital, entra, request, kind, proof):
    with hospital.client(request.getfixturevalue(kind)) as client:
        assert client.fetch_latest() is None
    (asked,) = entra.requests
    assert asked.path == f"/{TENANT}/oauth2/v2.0/token"
    assert proof.items() <= asked.params.items()
    assert (asked.params["grant_type"], asked.params["client_id"]) == ("client_credentials", CLIENT)
    assert asked.params["scope"] == DICOM_SCOPE


@pytest.mark.parametrize("kind", ["client_secret", "workload", "machine"])
def test_no_client_logs_tokens_or_secrets_at_any_level(hospital, request, monkeypatch, caplog, capfd, kind):
    caplog.set_level(1)
    dictConfig({"version": 1, "disable_existing_loggers": False})  # as Dagster's commands do
    if kind == "machine":
        serves_app_service(request.getfixturevalue("machine"), monkeypatch)
    environment = {"DICOM_AUTHENTICATION": "managed_identity"} if kind == "machine" else request.getfixturevalue(kind)
    hospital.refuses = lambda number: number == 1  # so that a second token is asked for, too
    with hospital.client(environment) as client:
        assert client.fetch_latest() is None
    said = caplog.text + "".join(capfd.readouterr())
    assert {"httpx", "httpcore.http11", "azure.identity"} & {record.name for record in caplog.records}
    for token in hospital.seen:
        assert token.removeprefix("Bearer ").split(".")[1] not in said
    for secret in (SECRET, ASSERTION, HEADER):
        assert secret not in said


# The life of a token


def test_concurrent_requests_make_one_token_request(hospital, entra, client_secret):
    with hospital.client(client_secret) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.fetch_latest(), range(16)))
    assert len(hospital.seen) == 16
    assert len(entra.requests) == 1


def test_token_that_ends_during_a_run_is_replaced_before_the_service_refuses_it(hospital, entra, client_secret):
    entra.life_seconds = 60  # good on the slowest machine, and too near its end to be kept
    with hospital.client(client_secret) as client:
        for _ in range(3):
            client.fetch_latest()
    assert len(set(hospital.seen)) == len(hospital.seen) == 3


@pytest.mark.parametrize("kind", ["client_secret", "workload"])
def test_revoked_token_is_replaced_by_one_from_no_cache(hospital, entra, request, kind):
    hospital.refuses = lambda number: number == 2
    with hospital.client(request.getfixturevalue(kind)) as client:
        for _ in range(3):
            client.fetch_latest()
    first, refused, new, later = hospital.seen
    assert first == refused != new == later
    assert ["claims" in asked.params for asked in entra.requests] == [False, True]


@pytest.mark.parametrize("place", [serves_app_service, serves_metadata])
def test_revoked_token_of_a_managed_identity_is_replaced(hospital, machine, monkeypatch, place):
    place(machine, monkeypatch)
    hospital.refuses = lambda number: number == 2
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity"}) as client:
        for _ in range(2):
            client.fetch_latest()
    assert len(machine.requests) == 2


# Failures


def check_says(error: BaseException, *words: str) -> None:
    for word in words:
        assert word in str(error)
    assert "hidden" not in str(error)


def test_token_for_another_audience_is_refused_with_the_setting_that_names_it(hospital, entra, client_secret):
    with hospital.client({**client_secret, "DICOM_TOKEN_SCOPE": "https://other.example/.default"}) as client:
        with pytest.raises(ServiceRefusedError) as caught:
            client.fetch_latest()
    check_says(caught.value, "401", "DICOM_TOKEN_SCOPE", "the service's tenant")
    assert {asked.audience for asked in entra.requests} == {"https://other.example"}
    assert len(hospital.seen) == 2


def test_expired_token_is_refused_by_the_service(hospital, entra, client_secret):
    entra.life_seconds = -60
    with hospital.client(client_secret) as client, pytest.raises(ServiceRefusedError) as caught:
        client.fetch_latest()
    check_says(caught.value, "401", "DICOM_AUTHENTICATION")


@pytest.mark.parametrize(
    ("code", "description"),
    [
        ("AADSTS7000215", "Invalid client secret provided. hidden"),
        ("AADSTS90002", "Tenant not found. hidden"),
        ("AADSTS700016", "Application not found in the directory. hidden"),
    ],
)
def test_refused_application_is_told_the_code_of_entra_and_what_to_check(
    hospital, entra, client_secret, code, description
):
    entra.refusal = (400, {"error": "invalid_client", "error_description": f"{code}: {description}"})
    with hospital.client(client_secret) as client, pytest.raises(ServiceRefusedError) as caught:
        client.fetch_latest()
    check_says(caught.value, code, "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID")
    assert SECRET not in str(caught.value)
    assert hospital.seen == []


@pytest.mark.parametrize("place", [serves_app_service, serves_metadata])
def test_machine_without_an_identity_is_told_to_get_one(hospital, machine, monkeypatch, place):
    place(machine, monkeypatch)
    machine.refusal = (400, {"error": "invalid_request", "error_description": "Identity not found", "message": "no"})
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity"}) as client:
        with pytest.raises(ServiceRefusedError) as caught:
            client.fetch_latest()
    check_says(caught.value, "Give the machine a managed identity", "AZURE_CLIENT_ID")


def test_federated_token_that_is_missing_is_explained(hospital, workload, tmp_path):
    (tmp_path / "token").unlink()
    with hospital.client(workload) as client, pytest.raises(ServiceRefusedError) as caught:
        client.fetch_latest()
    check_says(caught.value, "FileNotFoundError", "AZURE_FEDERATED_TOKEN_FILE")


@pytest.fixture
def _no_waiting(monkeypatch) -> None:
    """Between azure-identity's own tries."""
    monkeypatch.setattr(RequestsTransport, "sleep", lambda *_: None)


@pytest.fixture
def nobody() -> Iterator[str]:
    """Where connections are refused."""
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.usefixtures("_no_waiting")
def test_entra_out_of_reach_is_no_wrong_secret(hospital, client_secret, nobody):
    with hospital.client({**client_secret, "AZURE_AUTHORITY_HOST": f"https://{nobody}"}) as client:
        with pytest.raises(ServiceUnreachableError) as caught:
            client.fetch_latest()
    check_says(caught.value, "could be reached", "network", "Microsoft Entra")
    assert "AZURE_CLIENT_SECRET" not in str(caught.value)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("place", [serves_app_service, serves_metadata])
def test_machine_that_hands_out_nothing_may_not_be_in_azure(hospital, nobody, monkeypatch, place):
    place(TokenServer(url=f"http://{nobody}"), monkeypatch)
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity"}) as client:
        with pytest.raises(ServiceUnreachableError) as caught:
            client.fetch_latest()
    check_says(caught.value, "could be reached", "not in Azure", "choose another DICOM_AUTHENTICATION")


@pytest.mark.usefixtures("_no_waiting")
def test_token_is_used_as_long_as_it_lives_while_nobody_hands_out_another(hospital, machine, monkeypatch, caplog):
    serves_app_service(machine, monkeypatch)
    machine.life_seconds = 200
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity"}) as client:
        client.fetch_latest()
        machine.is_silent = True
        with caplog.at_level(logging.WARNING, "dicom_assets"):
            for _ in range(3):
                client.fetch_latest()
    assert len(set(hospital.seen)) == 1
    (record,) = [record for record in caplog.records if record.name.startswith("dicom_assets")]
    assert "The last token is used as long as it lives" in record.getMessage()


# Several services


def test_each_of_several_services_sees_the_tokens_of_its_own_identity_alone(entra, authority, tmp_path):
    lines, seen, environment = [], {}, {"DICOM_SERVICES": str(tmp_path / "services.toml")}
    with ExitStack() as stack:
        other = stack.enter_context(TokenServer(issuer="https://sts.windows.net/other/").running(authority))
        for name, tokens in (("north", entra), ("south", other)):
            place = Hospital("")
            service = stack.enter_context(Service())
            url = stack.enter_context(serve(service, audience=AUDIENCE, intercept=place.intercept))
            seen[name] = place.seen
            environment[f"{name.upper()}_SECRET"] = f"{name}-{SECRET}"
            lines += [
                f"[services.{name}]",
                f'service_url = "{url}"',
                'start_time = "2026-03-01T00:00Z"',
                'authentication = "client_secret"',
                f'azure_tenant_id = "{TENANT}"',
                f'azure_client_id = "{name}-{CLIENT}"',
                f'azure_client_secret = {{ env = "{name.upper()}_SECRET" }}',
                f'azure_authority_host = "{tokens.url}"',
            ]
        (tmp_path / "services.toml").write_text("\n".join(lines))
        for settings in load_services(environment):
            with open_client(settings) as client:
                assert client.fetch_latest() is None
        for name, tokens in (("north", entra), ("south", other)):
            (request,) = tokens.requests
            assert request.params["client_id"] == f"{name}-{CLIENT}"
            assert request.params["client_secret"] == f"{name}-{SECRET}"
    issuers = {name: {issuer_of(token) for token in tokens} for name, tokens in seen.items()}
    assert issuers == {"north": {entra.issuer}, "south": {"https://sts.windows.net/other/"}}


def issuer_of(header: str) -> str:
    payload = header.removeprefix("Bearer ").split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]
