"""azure-identity's own code against whoever hands out tokens on loopback, and the service that checks them."""

import base64
import json
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from logging.config import dictConfig
from types import SimpleNamespace

import pytest
from starlette.responses import Response

from dicom_assets.config import settings as settings_module
from dicom_assets.config.connections import open_client
from dicom_assets.config.services import load_services
from dicom_assets.config.settings import load_settings
from dicom_assets.core.errors import ServiceError, ServiceRefusedError, ServiceUnreachableError
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.identity import token_transport
from dicom_assets.identity.credentials import DICOM_SCOPE
from dicom_assets.network import retries
from dicom_assets_tests.azure.token_server import ASSERTION, CLIENT, HEADER, SECRET, TENANT, TokenServer, Trouble

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


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that would have been waited between two tries."""
    waits: list[float] = []
    monkeypatch.setattr(retries, "sleep", waits.append)
    return waits


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


def check_says(error: BaseException | str, *words: str) -> None:
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
def nobody() -> Iterator[str]:
    """Where connections are refused."""
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.usefixtures("waits")
def test_entra_out_of_reach_is_no_wrong_secret(hospital, client_secret, nobody):
    with hospital.client({**client_secret, "AZURE_AUTHORITY_HOST": f"https://{nobody}"}) as client:
        with pytest.raises(ServiceUnreachableError) as caught:
            client.fetch_latest()
    check_says(caught.value, "could be reached", "network", "Microsoft Entra")
    assert "AZURE_CLIENT_SECRET" not in str(caught.value)


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("place", [serves_app_service, serves_metadata])
def test_machine_that_hands_out_nothing_may_not_be_in_azure(hospital, nobody, monkeypatch, place):
    place(TokenServer(url=f"http://{nobody}"), monkeypatch)
    with hospital.client({"DICOM_AUTHENTICATION": "managed_identity"}) as client:
        with pytest.raises(ServiceUnreachableError) as caught:
            client.fetch_latest()
    check_says(caught.value, "could be reached", "not in Azure", "choose another DICOM_AUTHENTICATION")


@pytest.mark.usefixtures("waits")
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


# Troubles that pass by themselves


def entra_error(code: int, error: str = "invalid_request") -> dict[str, object]:
    return {"error": error, "error_description": f"AADSTS{code}: hidden", "error_codes": [code]}


@dataclass(frozen=True)
class Way:
    """An identity, and who hands out its tokens."""

    environment: Environment
    server: TokenServer


@pytest.fixture
def ways(client_secret, entra, machine, monkeypatch) -> Callable[[str], Way]:
    def choose(name: str) -> Way:
        if name == "client_secret":
            return Way(client_secret, entra)
        (serves_app_service if name == "app_service" else serves_metadata)(machine, monkeypatch)
        if name == "default":
            monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "prod")  # not whoever is signed in on this machine
        return Way({"DICOM_AUTHENTICATION": "default" if name == "default" else "managed_identity"}, machine)

    return choose


TROUBLES = [
    pytest.param("client_secret", Trouble(400, entra_error(90033)), id="AADSTS90033"),
    pytest.param("client_secret", Trouble(400, entra_error(90024)), id="AADSTS90024"),
    pytest.param("client_secret", Trouble(503, entra_error(90006, "temporarily_unavailable")), id="AADSTS90006"),
    pytest.param("client_secret", Trouble(400, {"error": "temporarily_unavailable"}), id="temporarily_unavailable"),
    pytest.param("client_secret", Trouble(429, {}, {"Retry-After": "7"}), id="429 of Entra"),
    pytest.param("client_secret", Trouble(408), id="408 of Entra"),
    pytest.param("client_secret", Trouble(500, "<html>hidden</html>", {"Content-Type": "text/html"}), id="500 page"),
    pytest.param("client_secret", Trouble(503, {}), id="503 of Entra"),
    pytest.param("client_secret", Trouble(), id="silent Entra"),
    pytest.param("metadata", Trouble(410, {"error": "gone"}), id="410 of the metadata service"),
    pytest.param("metadata", Trouble(404, {"error": "not found"}), id="404 of the metadata service"),
    pytest.param("metadata", Trouble(429, {"error": "busy"}, {"Retry-After": "7"}), id="429 of the metadata service"),
    pytest.param("metadata", Trouble(500, {"error": "unknown"}), id="500 of the metadata service"),
    pytest.param("metadata", Trouble(), id="silent metadata service"),
    pytest.param("app_service", Trouble(503, "hidden", {"Content-Type": "text/plain"}), id="503 of App Service"),
    pytest.param("app_service", Trouble(200, "<html>hidden</html>"), id="page of App Service"),
    pytest.param("default", Trouble(), id="silent metadata service behind the default chain"),
    pytest.param("default", Trouble(410, {"error": "gone"}), id="410 behind the default chain"),
    pytest.param("default", Trouble(503, {"error": "busy"}), id="503 behind the default chain"),
]
"""What heals, and through which identity."""


@pytest.mark.parametrize(("name", "trouble"), TROUBLES)
def test_living_token_outlives_a_trouble(hospital, ways, waits, caplog, name, trouble):
    way = ways(name)
    way.server.life_seconds = 200
    with hospital.client(way.environment) as client:
        client.fetch_latest()
        way.server.troubles = repeat(trouble)
        with caplog.at_level(logging.WARNING, "dicom_assets"):
            for _ in range(3):
                client.fetch_latest()
    assert len(set(hospital.seen)) == 1
    (record,) = [record for record in caplog.records if record.name.startswith("dicom_assets")]
    check_says(record.getMessage(), "as long as it lives")
    assert len(way.server.requests) == 2
    assert waits == []


@pytest.mark.parametrize(("name", "trouble"), TROUBLES)
def test_trouble_that_passes_is_waited_for(hospital, ways, waits, name, trouble):
    way = ways(name)
    way.server.troubles = iter([trouble] * 3)
    with hospital.client(way.environment) as client:
        assert client.fetch_latest() is None
    assert len(way.server.requests) == 4
    assert len(waits) == 3
    asked = float(trouble.headers.get("Retry-After", "0"))
    assert all(asked <= wait <= asked + bound for wait, bound in zip(waits, (0.5, 1, 2), strict=True))


@pytest.mark.parametrize(("name", "trouble"), TROUBLES)
@pytest.mark.usefixtures("waits")
def test_trouble_that_stays_is_left_to_whoever_asked_and_forgotten_once_it_has_passed(hospital, ways, name, trouble):
    way = ways(name)
    way.server.troubles = repeat(trouble, 4)
    with hospital.client(way.environment) as client:
        with pytest.raises(ServiceUnreachableError) as caught:
            client.fetch_latest()
        check_says(caught.value, "4 times", str(trouble.status if trouble.status not in (None, 200) else ""))
        assert hospital.seen == []
        assert client.fetch_latest() is None
    assert len(way.server.requests) == 5


@pytest.mark.parametrize(("name", "trouble"), TROUBLES)
@pytest.mark.usefixtures("waits")
def test_trouble_while_a_revoked_token_is_replaced(hospital, ways, name, trouble):
    way = ways(name)
    hospital.refuses = lambda number: number in (1, 3)
    with hospital.client(way.environment) as client:
        way.server.troubles = iter([])
        client.fetch_latest()  # refused, replaced, accepted
        way.server.troubles = repeat(trouble, 3)
        client.fetch_latest()  # so again, once the trouble has passed
        first, second, third = dict.fromkeys(hospital.seen)
        hospital.refuses = lambda number: number == 5
        way.server.troubles = repeat(trouble, 4)
        with pytest.raises(ServiceUnreachableError):
            client.fetch_latest()
        client.fetch_latest()
    assert hospital.seen == [first, second, second, third, third, third]


@pytest.mark.parametrize("name", ["managed_identity", "default"])
def test_metadata_service_that_takes_a_connection_and_never_answers(hospital, waits, monkeypatch, name):
    monkeypatch.setattr(token_transport, "ANSWER_SECONDS", 0.05)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "prod")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with hospital.client({"DICOM_AUTHENTICATION": name}) as client, pytest.raises(ServiceUnreachableError):
            client.fetch_latest()
    assert len(waits) == 3


@pytest.mark.parametrize("code", [7000215, 700016, 50196, 90036, 90002])
def test_living_token_outlives_a_refusal(hospital, entra, client_secret, waits, caplog, code):
    entra.life_seconds = 200
    with hospital.client(client_secret) as client:
        client.fetch_latest()
        entra.troubles = repeat(Trouble(400, entra_error(code, "invalid_client")))
        with caplog.at_level(logging.WARNING, "dicom_assets"):
            for _ in range(2):
                client.fetch_latest()
    assert len(set(hospital.seen)) == 1
    (record,) = [record for record in caplog.records if record.name.startswith("dicom_assets")]
    check_says(record.getMessage(), f"AADSTS{code}", "as long as it lives")
    assert waits == []


@pytest.mark.parametrize("code", [7000215, 7000222, 700016, 50196, 90036, 90002, 50053])
def test_refusal_is_not_tried_again(hospital, entra, client_secret, waits, code):
    entra.troubles = repeat(Trouble(400, entra_error(code, "invalid_client")))
    with hospital.client(client_secret) as client, pytest.raises(ServiceRefusedError) as caught:
        client.fetch_latest()
    check_says(caught.value, f"AADSTS{code}")
    assert len(entra.requests) == 1
    assert waits == []


def test_default_chain_that_never_gave_a_token_is_refused(hospital, ways, waits):
    way = ways("default")
    way.server.refusal = (400, {"error": "invalid_request", "error_description": "Identity not found"})
    with hospital.client(way.environment) as client, pytest.raises(ServiceRefusedError):
        client.fetch_latest()
    assert waits == []


def test_default_chain_that_gave_a_token_is_believed_to_give_another(hospital, ways, waits):
    way = ways("default")
    way.server.life_seconds = -60
    way.server.troubles = iter(())
    hospital.refuses = lambda number: False
    with hospital.client(way.environment) as client:
        with pytest.raises(ServiceRefusedError):
            client.fetch_latest()  # of the hospital, which sees an expired token
        way.server.refusal = (400, {"error": "invalid_request", "error_description": "Identity not found"})
        with pytest.raises(ServiceUnreachableError):
            client.fetch_latest()
        assert len(waits) == 3
        way.server.refusal, way.server.life_seconds = None, 3600
        assert client.fetch_latest() is None


# Advice


@pytest.mark.parametrize(
    ("variables", "fits"),
    [
        ({"CONTAINER_APP_NAME": "x"}, "DICOM_AUTHENTICATION=managed_identity"),
        ({"KUBERNETES_SERVICE_HOST": "x"}, "DICOM_AUTHENTICATION=workload_identity"),
        ({}, "az login"),
    ],
    ids=["Azure", "Kubernetes", "terminal"],
)
@pytest.mark.parametrize("trouble", [Trouble(), Trouble(400, "no JSON"), Trouble(503)])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.usefixtures("waits")
def test_advice_fits_the_host(hospital, ways, monkeypatch, tmp_path, variables, fits, trouble, several):
    monkeypatch.setattr(settings_module, "_ASSET_TAG_FILE", tmp_path / "absent")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    way = ways("default")
    way.server.troubles = repeat(trouble)
    environment = variables | way.environment
    if several:
        (tmp_path / "services.toml").write_text(
            f'[services.north]\nservice_url = "{hospital.url}"\nstart_time = "2026-03-01T00:00Z"\n'
        )
        (settings,) = load_services({**environment, "DICOM_SERVICES": str(tmp_path / "services.toml")})
        client = open_client(settings)
    else:
        client = hospital.client(environment)
    with client, pytest.raises(ServiceError) as caught:
        client.fetch_latest()
    check_says(caught.value, fits)
    assert ("az login" in str(caught.value)) == (not variables)


def test_machine_whose_metadata_service_answers_is_in_azure(hospital, ways):
    way = ways("default")
    way.server.refusal = (400, {"error": "invalid_request", "error_description": "Identity not found"})
    with hospital.client(way.environment) as client, pytest.raises(ServiceRefusedError) as caught:
        client.fetch_latest()
    check_says(caught.value, "DICOM_AUTHENTICATION=managed_identity", "give it a managed identity")
    assert "az login" not in str(caught.value)


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
