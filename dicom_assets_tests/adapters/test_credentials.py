import base64
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from azure import identity
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

from dicom_assets.adapters.credentials import DICOM_SCOPE, Authentication, build_credential, is_loopback
from dicom_assets.adapters.dicom_service import DicomService
from dicom_assets.adapters.token_auth import TokenAuth
from dicom_assets.core.errors import ServiceRefusedError, ServiceUnreachableError, SettingsError
from dicom_assets_tests.adapters.feed_server import WINDOW, Answer, FeedServer, Request, entry


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
    auth = TokenAuth(credential, "scope/.default")
    with httpx.Client(auth=auth) as client, ThreadPoolExecutor(10) as threads:
        list(threads.map(client.get, [f"{server.url}/latest"] * 10))
    assert credential.asked == [(("scope/.default",), None)]
    assert tokens(server) == ["Bearer hidden-1"] * 10


def test_token_is_renewed_five_minutes_before_it_expires(server):
    now = [1_000_000.0]
    credential = FakeCredential(clock=lambda: now[0])
    with httpx.Client(auth=TokenAuth(credential, clock=lambda: now[0])) as client:
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
    with httpx.Client(auth=TokenAuth(credential)) as client:
        assert client.get(f"{server.url}/latest").status_code == 200
        assert client.get(f"{server.url}/latest").status_code == 200
    assert tokens(server) == ["Bearer hidden-1", "Bearer hidden-2", "Bearer hidden-2"]
    assert [claims for _, claims in credential.asked] == [None, '{"access_token":{}}']


def test_token_that_is_refused_again_stays_refused(server):
    server.before = refuse("hidden-1", "hidden-2")
    with httpx.Client(auth=TokenAuth(FakeCredential())) as client:
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
    with httpx.Client(auth=TokenAuth(credential)) as client, ThreadPoolExecutor(5) as threads:
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
    with httpx.Client(auth=TokenAuth(credential)) as client:
        client.get(f"{server.url}/latest")
    assert credential.asked[1][1] == claims


@pytest.mark.parametrize("garbage", ["A", "_w"])
def test_claims_that_cannot_be_read_are_passed_over(server, garbage):
    server.before = refuse("hidden-1", challenge=f'Bearer claims="{garbage}"')
    credential = FakeCredential()
    with httpx.Client(auth=TokenAuth(credential)) as client:
        assert client.get(f"{server.url}/latest").status_code == 200
    assert credential.asked[1][1] == '{"access_token":{}}'


def test_without_a_new_token_the_refusal_stands(server, caplog):
    credential = FakeCredential()
    server.before = refuse("hidden-1")
    with httpx.Client(auth=TokenAuth(credential)) as client, caplog.at_level(logging.WARNING, "dicom_assets"):
        client.get(f"{server.url}/latest")  # renews to the second token
        server.before = refuse("hidden-2")
        credential.failure = ClientAuthenticationError("hidden")
        assert client.get(f"{server.url}/latest").status_code == 401
    (record,) = caplog.records
    assert "new token after a 401" in record.getMessage()
    assert "hidden" not in caplog.text


def test_client_of_the_service_signs_pages_and_explains_a_refusal(server):
    server.entries = [entry(1)]
    with DicomService(server.url, auth=TokenAuth(FakeCredential())) as service:
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
    with httpx.Client(auth=TokenAuth(credential)) as client:
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
    auth = TokenAuth(FakeCredential(), authentication=Authentication.AZURE_CLI)
    with httpx.Client(auth=auth) as client:
        response = client.get(f"{server.url}/latest")
    assert repr(auth) == f"TokenAuth(scope='{DICOM_SCOPE}', authentication='azure_cli')"
    assert "hidden" not in repr(response.request.headers)


def test_logs_hold_no_token(server, caplog):
    server.entries = [entry(1)]
    server.answers.extend([Answer(401), Answer(503, headers={"Retry-After": "0"})])
    with caplog.at_level(logging.DEBUG), DicomService(server.url, auth=TokenAuth(FakeCredential())) as service:
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
    with DicomService(server.url, auth=TokenAuth(credential, authentication=authentication)) as service:
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
    with httpx.Client(auth=TokenAuth(credential)) as client:
        with pytest.raises(ServiceRefusedError, match=r"\(ClientAuthenticationError\)"):
            client.get(server.url)


def test_unreachable_sign_in_says_so(server):
    credential = FakeCredential()
    credential.failure = ServiceRequestError("hidden")
    with httpx.Client(auth=TokenAuth(credential)) as client:
        with pytest.raises(ServiceUnreachableError, match=r"ServiceRequestError.*network"):
            client.get(server.url)


def test_failure_is_forgotten_once_tokens_come_again(server):
    credential = FakeCredential()
    credential.failure = ServiceRequestError("down")
    with httpx.Client(auth=TokenAuth(credential)) as client:
        with pytest.raises(ServiceUnreachableError):
            client.get(server.url)
        credential.failure = None
        assert client.get(f"{server.url}/latest").status_code == 200


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
