import base64
import json
import logging
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from azure import identity
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, SettingsError
from dicom_assets.identity.credentials import DICOM_SCOPE, Authentication, Host, build_credential
from dicom_assets.identity.token_auth import TokenAuth
from dicom_assets.identity.token_failures import TRANSIENT_CODES
from dicom_assets.identity.tokens import PAUSE_SECONDS, REFRESH_BEFORE_EXPIRY_SECONDS, Tokens
from dicom_assets.lake.storage.storage import RETRYING_SECONDS
from dicom_assets.network import retries
from dicom_assets.network.hosts import is_loopback
from dicom_assets.service.client import DicomService
from dicom_assets_tests.service.feed_server import WINDOW, Answer, FeedServer, Request, entry


class FakeCredential:
    """Hands out numbered tokens, slowly enough for concurrent requests to meet."""

    def __init__(self, *, life_seconds: float = 3600, clock=time.time) -> None:
        self.asked: list[tuple[tuple[str, ...], str | None]] = []
        self.failure: Exception | None = None
        self._life_seconds = life_seconds
        self._clock = clock

    def get_token(self, *scopes: str, claims: str | None = None, **kwargs: object) -> AccessToken:
        self.asked.append((scopes, claims))
        time.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        return AccessToken(f"hidden-{len(self.asked)}", int(self._clock() + self._life_seconds))


def build_auth(credential: FakeCredential, scope: str = DICOM_SCOPE, **options) -> TokenAuth:
    return TokenAuth(Tokens(credential, scope, **options))


def tokens(server: FeedServer) -> list[str]:
    return [request.headers["authorization"] for request in server.requests]


def refuse(*refused: str, challenge: str | None = None):
    headers = {"WWW-Authenticate": challenge} if challenge else {}

    def before(request: Request) -> Answer | None:
        return Answer(401, headers=headers) if request.headers["authorization"].split()[1] in refused else None

    return before


# Tokens on requests


def test_concurrent_requests_make_one_token_request(server):
    credential = FakeCredential()
    auth = build_auth(credential, "scope/.default")
    with httpx.Client(auth=auth) as client, ThreadPoolExecutor(10) as threads:
        list(threads.map(client.get, [f"{server.url}/latest"] * 10))
    assert credential.asked == [(("scope/.default",), None)]
    assert tokens(server) == ["Bearer hidden-1"] * 10


def test_token_is_renewed_five_minutes_before_it_expires(server):
    now = [1_000_000.0]
    credential = FakeCredential(clock=lambda: now[0])
    with httpx.Client(auth=build_auth(credential, clock=lambda: now[0])) as client:
        client.get(f"{server.url}/latest")
        now[0] += 3600 - 300
        client.get(f"{server.url}/latest")
        now[0] += 1
        client.get(f"{server.url}/latest")
    assert tokens(server) == ["Bearer hidden-1", "Bearer hidden-1", "Bearer hidden-2"]
    assert credential.asked[0] == ((DICOM_SCOPE,), None)


def test_refused_token_is_replaced_once(server):
    credential = FakeCredential()
    server.before = refuse("hidden-1")
    with httpx.Client(auth=build_auth(credential)) as client:
        assert client.get(f"{server.url}/latest").status_code == 200
        assert client.get(f"{server.url}/latest").status_code == 200
    assert tokens(server) == ["Bearer hidden-1", "Bearer hidden-2", "Bearer hidden-2"]
    assert [claims for _, claims in credential.asked] == [None, '{"access_token":{}}']


def test_token_that_is_refused_again_stays_refused(server):
    server.before = refuse("hidden-1", "hidden-2")
    with httpx.Client(auth=build_auth(FakeCredential())) as client:
        assert client.get(f"{server.url}/latest").status_code == 401
    assert len(server.requests) == 2


def test_concurrent_refusals_renew_the_token_once(server):
    credential = FakeCredential()
    together = threading.Barrier(5)

    def before(request: Request) -> Answer | None:
        if request.headers["authorization"] != "Bearer hidden-1":
            return None
        together.wait(60)
        return Answer(401)

    server.before = before
    with httpx.Client(auth=build_auth(credential)) as client, ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(client.get, [f"{server.url}/latest"] * 5))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(credential.asked) == 2


@pytest.mark.parametrize(
    ("challenge", "claims"),
    [
        (
            '{"access_token":{"nbf":{"essential":true,"value":"1"}}}',
            '{"access_token":{"nbf":{"essential":true,"value":"1"}}}',
        ),
        (None, '{"access_token":{}}'),
    ],
)
def test_claims_of_the_challenge_are_asked_for(server, challenge, claims):
    encoded = base64.urlsafe_b64encode(challenge.encode()).decode().rstrip("=") if challenge else "\x7f"
    server.before = refuse("hidden-1", challenge=f'Bearer realm="", error="insufficient_claims", claims="{encoded}"')
    credential = FakeCredential()
    with httpx.Client(auth=build_auth(credential)) as client:
        client.get(f"{server.url}/latest")
    assert credential.asked[1][1] == claims


def encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


NO_OBJECTS = ["no JSON", "[1]", '"text"', "null", "7", "{", "", "[" * 30_000]


@pytest.mark.parametrize("garbage", ["A", "_w", *map(encode, NO_OBJECTS)])
def test_claims_that_cannot_be_read_are_passed_over(server, garbage):
    server.before = refuse("hidden-1", challenge=f'Bearer claims="{garbage}"')
    credential = FakeCredential()
    with httpx.Client(auth=build_auth(credential)) as client:
        assert client.get(f"{server.url}/latest").status_code == 200
    assert credential.asked[1][1] == '{"access_token":{}}'


def test_without_a_new_token_the_refusal_stands(server, caplog):
    credential = FakeCredential()
    server.before = refuse("hidden-1")
    with httpx.Client(auth=build_auth(credential)) as client, caplog.at_level(logging.WARNING, "dicom_assets"):
        client.get(f"{server.url}/latest")  # renews to the second token
        server.before = refuse("hidden-2")
        credential.failure = ClientAuthenticationError("hidden")
        assert client.get(f"{server.url}/latest").status_code == 401
    (record,) = caplog.records
    assert "new token after a 401" in record.getMessage()
    assert "hidden" not in caplog.text


def test_client_of_the_service_signs_pages_and_explains_a_refusal(server):
    server.entries = [entry(1)]
    with DicomService(server.url, auth=build_auth(FakeCredential())) as service:
        assert len(list(service.fetch_pages(WINDOW))) == 1
        server.before = lambda request: Answer(401)
        with pytest.raises(ServiceRefusedError, match=r"401 .*DICOM_TOKEN_SCOPE") as caught:
            list(service.fetch_pages(WINDOW))
    assert "hidden" not in str(caught.value)
    assert len(server.requests) == 3


# Tokens stay here


@pytest.mark.parametrize("url", ["http://10.1.2.3/x", "http://service.example/x", "http://127.0.0.1.example/x"])
def test_token_never_travels_in_the_clear(url):
    credential = FakeCredential()
    with httpx.Client(auth=build_auth(credential)) as client:
        with pytest.raises(SettingsError, match=r"plain http.*https:// in DICOM_SERVICE_URL"):
            client.get(url)
    assert credential.asked == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "dicom.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
)
def test_loopback_is_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "example.org", "localhost.example", "10.0.0.1", "0.0.0.0", "::2", "127.0.0.1.nip.io"]
)
def test_anything_else_is_not(host):
    assert not is_loopback(host)


def test_representation_holds_no_token(server):
    auth = build_auth(FakeCredential(), authentication=Authentication.AZURE_CLI)
    with httpx.Client(auth=auth) as client:
        response = client.get(f"{server.url}/latest")
    assert DICOM_SCOPE in repr(auth)
    assert "azure_cli" in repr(auth)
    assert "hidden" not in repr(auth)
    assert "hidden" not in repr(response.request.headers)


def test_logs_hold_no_token(server, caplog):
    server.entries = [entry(1)]
    server.answers.extend([Answer(401), Answer(503, headers={"Retry-After": "0"})])
    with caplog.at_level(logging.DEBUG), DicomService(server.url, auth=build_auth(FakeCredential())) as service:
        list(service.fetch_pages(WINDOW))
    ours = [record for record in caplog.records if record.name.startswith(("dicom_assets", "httpx"))]
    assert ours
    assert not any("hidden" in record.getMessage() for record in ours)


# Failures


@pytest.mark.parametrize(
    ("authentication", "hint"),
    [
        (Authentication.AZURE_CLI, "az login"),
        (Authentication.CLIENT_SECRET, "AZURE_CLIENT_SECRET"),
        (Authentication.WORKLOAD_IDENTITY, "AZURE_FEDERATED_TOKEN_FILE"),
        (Authentication.MANAGED_IDENTITY, "AZURE_CLIENT_ID"),
        (Authentication.DEFAULT, "az login"),
    ],
)
def test_failed_sign_in_says_what_to_do(server, authentication, hint):
    credential = FakeCredential()
    credential.failure = ClientAuthenticationError("AADSTS7000215: Invalid client secret provided: hidden")
    with DicomService(server.url, auth=build_auth(credential, authentication=authentication)) as service:
        with pytest.raises(ServiceRefusedError) as caught:
            service.fetch_latest()
    for words in (DICOM_SCOPE, f"DICOM_AUTHENTICATION={authentication}", "AADSTS7000215", hint):
        assert words in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is credential.failure
    assert server.requests == []


def test_failed_sign_in_without_a_code_names_the_kind_of_error(server):
    credential = FakeCredential()
    credential.failure = ClientAuthenticationError("hidden")
    with httpx.Client(auth=build_auth(credential)) as client:
        with pytest.raises(ServiceRefusedError, match=r"\(ClientAuthenticationError\)"):
            client.get(server.url)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(retries, "sleep", waits.append)
    return waits


@pytest.mark.usefixtures("waits")
def test_unreachable_sign_in_says_so(server):
    credential = FakeCredential()
    credential.failure = ServiceRequestError("hidden")
    with httpx.Client(auth=build_auth(credential)) as client:
        with pytest.raises(ServiceUnreachableError, match=r"ServiceRequestError.*network"):
            client.get(server.url)


@pytest.mark.usefixtures("waits")
def test_failure_is_forgotten_once_tokens_come_again(server):
    credential = FakeCredential()
    credential.failure = ServiceRequestError("down")
    with httpx.Client(auth=build_auth(credential)) as client:
        with pytest.raises(ServiceUnreachableError):
            client.get(server.url)
        credential.failure = None
        assert client.get(f"{server.url}/latest").status_code == 200


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Tokens of an identity whose failures are made up."""

    def __init__(self, authentication=Authentication.CLIENT_SECRET, host=Host.UNKNOWN) -> None:
        self.clock = Clock()
        self.waits: list[float] = []
        self.credential = FakeCredential(clock=self.clock)
        self.tokens = Tokens(
            self.credential,
            "scope/.default",
            authentication=authentication,
            host=host,
            clock=self.clock,
            sleep=self.waits.append,
        )


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def answered(status: int, **headers: str) -> HttpResponseError:
    response = SimpleNamespace(status_code=status, reason="hidden", headers=headers, text=lambda: "")
    return HttpResponseError("hidden", response=response)


CHAIN = "DefaultAzureCredential failed to retrieve a token.\n\tManagedIdentityCredential: "
PASSING = [
    *(
        pytest.param(ClientAuthenticationError(f"Authentication failed: {code}: hidden"), id=code)
        for code in sorted(TRANSIENT_CODES)
    ),
    *(pytest.param(answered(status), id=str(status)) for status in (408, 410, 429, 500, 502, 503, 504, 507)),
    pytest.param(caused(ClientAuthenticationError("hidden"), answered(503)), id="503 behind"),
    pytest.param(ServiceRequestError("hidden"), id="no connection"),
    pytest.param(caused(ClientAuthenticationError("hidden"), ServiceResponseError("hidden")), id="no answer behind"),
    pytest.param(caused(ClientAuthenticationError("hidden"), subprocess.TimeoutExpired("az", 10)), id="silent az"),
    pytest.param(ConnectionResetError("hidden"), id="reset"),
    pytest.param(TimeoutError("hidden"), id="timeout"),
    pytest.param(
        ClientAuthenticationError("ERROR: HTTPSConnectionPool(host=…): Max retries exceeded"), id="az offline"
    ),
    pytest.param(ClientAuthenticationError(f"{CHAIN}unavailable, no response from the IMDS endpoint. \n"), id="chain"),
    pytest.param(json.JSONDecodeError("hidden", "<html>", 0), id="page"),
]
FINAL = [
    *(pytest.param(ClientAuthenticationError(f"AADSTS{code}: hidden"), id=str(code)) for code in
      (7000215, 7000222, 700016, 700082, 50196, 50053, 50173, 53003, 90002, 90036, 900333)),
    *(pytest.param(answered(status), id=str(status)) for status in (400, 401, 403, 404)),
    pytest.param(identity.CredentialUnavailableError("hidden"), id="unavailable"),
    pytest.param(FileNotFoundError("hidden"), id="no file"),
    pytest.param(
        ClientAuthenticationError(f"{CHAIN}no response from the IMDS endpoint. Token request error: (x) no identity"),
        id="chain",
    ),
]  # fmt: skip


@pytest.mark.parametrize("failure", PASSING)
def test_failure_that_passes_is_tried_again(failure):
    world = World()
    world.credential.failure = failure
    with pytest.raises(ServiceUnreachableError) as caught:
        world.tokens.current()
    assert len(world.credential.asked) == 4
    assert len(world.waits) == 3
    assert sum(world.waits) <= 3.5
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("failure", FINAL)
def test_failure_that_stays_is_not(failure):
    world = World()
    world.credential.failure = failure
    with pytest.raises(ServiceRefusedError) as caught:
        world.tokens.current()
    assert len(world.credential.asked) == 1
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("failure", [*PASSING, *FINAL])
@pytest.mark.parametrize("authentication", [Authentication.CLIENT_SECRET, Authentication.DEFAULT])
def test_living_token_is_used_to_its_end_with_a_warning_at_each_attempt(failure, authentication, caplog):
    world = World(authentication)
    token = world.tokens.current()
    world.credential.failure = failure
    world.clock.now = token.expires_on - REFRESH_BEFORE_EXPIRY_SECONDS + 1
    with caplog.at_level(logging.WARNING, "dicom_assets"):
        while world.clock.now < token.expires_on:
            assert world.tokens.current() is token
            world.clock.now += 1
    assert len(caplog.records) == len(world.credential.asked) - 1 == (REFRESH_BEFORE_EXPIRY_SECONDS - 1) // 30 + 1
    assert "hidden" not in caplog.text
    assert world.waits == []
    world.credential.failure = None
    assert world.tokens.current() is not token


def test_renewal_that_outlasts_the_living_token_is_tried_again():
    world = World()
    token = world.tokens.current()
    world.clock.now = token.expires_on - 5
    ask = world.credential.get_token

    def slow(*scopes, **options):
        world.clock.now += 10
        world.credential.failure = ServiceRequestError("hidden") if world.clock.now < token.expires_on + 30 else None
        return ask(*scopes, **options)

    world.credential.get_token = slow
    assert world.tokens.current() is not token


@pytest.mark.parametrize(("asked", "waited"), [("45", 45), ("5", PAUSE_SECONDS), ("900", 60)])
def test_next_attempt_is_no_sooner_than_asked_for_within_bounds(asked, waited):
    world = World()
    token = world.tokens.current()
    world.credential.failure = answered(429, **{"Retry-After": asked})
    world.clock.now = start = token.expires_on - 200
    while len(world.credential.asked) < 3:
        world.tokens.current()
        world.clock.now += 1
    assert world.clock.now - 1 - start == waited


def test_wait_is_as_long_as_asked_for_within_bounds():
    world = World()
    world.credential.failure = answered(429, **{"Retry-After": "600"})
    with pytest.raises(ServiceUnreachableError):
        world.tokens.current()
    assert all(60 <= wait <= 62 for wait in world.waits)


def test_default_chain_that_gave_a_token_fails_only_for_a_while():
    world = World(Authentication.DEFAULT)
    world.credential.failure = ClientAuthenticationError("hidden")
    with pytest.raises(ServiceRefusedError):
        world.tokens.current()
    world.credential.failure = None
    token = world.tokens.current()
    world.clock.now = token.expires_on
    world.credential.failure = ClientAuthenticationError("hidden")
    with pytest.raises(ServiceUnreachableError):
        world.tokens.current()
    world.credential.failure = ClientAuthenticationError("AADSTS7000222: hidden")
    with pytest.raises(ServiceRefusedError):
        world.tokens.current()


def test_token_stays_where_its_renewal_fails():
    world = World()
    token = world.tokens.current()
    for failure in (ClientAuthenticationError("hidden"), ServiceRequestError("hidden")):
        world.credential.failure = failure
        with pytest.raises((ServiceRefusedError, ServiceUnreachableError)):
            world.tokens.renewed(token, "{}")
        assert world.tokens.current() is token
    world.credential.failure = None
    assert world.tokens.renewed(token, "{}") is world.tokens.current() is not token


def test_requests_to_storage_end_before_a_renewed_token_does():
    assert 0 < RETRYING_SECONDS < REFRESH_BEFORE_EXPIRY_SECONDS


# Kinds of identity


@pytest.mark.parametrize(
    ("authentication", "kind"),
    [
        (Authentication.DEFAULT, identity.DefaultAzureCredential),
        (Authentication.MANAGED_IDENTITY, identity.ManagedIdentityCredential),
        (Authentication.WORKLOAD_IDENTITY, identity.WorkloadIdentityCredential),
        (Authentication.CLIENT_SECRET, identity.ClientSecretCredential),
        (Authentication.AZURE_CLI, identity.AzureCliCredential),
    ],
)
def test_credential_is_of_the_kind_asked_for(authentication, kind, monkeypatch, tmp_path):
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    credential = build_credential(authentication, tenant_id="tenant", client_id="client", client_secret="hidden")
    assert type(credential) is kind
    assert "hidden" not in repr(credential)


def test_no_authentication_has_no_credential():
    assert build_credential(Authentication.NONE) is None


@pytest.mark.parametrize(
    ("authentication", "hint"),
    [
        (Authentication.CLIENT_SECRET, "AZURE_CLIENT_SECRET"),
        (Authentication.WORKLOAD_IDENTITY, "AZURE_FEDERATED_TOKEN_FILE"),
    ],
)
def test_kind_that_lacks_something_says_what(authentication, hint, monkeypatch):
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=f"DICOM_AUTHENTICATION={authentication} .*{hint}"):
        build_credential(authentication)
