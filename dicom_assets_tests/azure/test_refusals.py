"""Whatever an account refuses, a person reads what to do about it, and no secret."""

import base64
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.checks.failure import heals
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.storage.errors import LAKE, Signing, explain_refusal
from dicom_assets_tests.azure.token_server import SECRET
from dicom_assets_tests.lakes.building import store, study

MARKER = "ZZSECRETZZ"


def refusal(environment: dict[str, str], *, secrets=(), healing=False) -> str:
    """What a person reads whose lake cannot be opened."""
    lake = build_lake(load_settings(environment))
    with pytest.raises(LakeUnavailableError) as caught:
        store(lake, study("1.2"))
    assert heals(caught.value) is healing
    error: BaseException | None = caught.value
    while error is not None:  # what is shown of the chain
        for secret in (MARKER, SECRET, "hidden", *secrets):
            assert secret not in str(error)
        error = error.__cause__
    return str(caught.value)


def with_key(settings: dict[str, str], key: str) -> dict[str, str]:
    return {**settings, "DICOM_AUTHENTICATION": "none", "AZURE_STORAGE_ACCOUNT_KEY": key}


def with_sas(settings: dict[str, str], token: str) -> dict[str, str]:
    return {**settings, "DICOM_AUTHENTICATION": "none", "AZURE_STORAGE_SAS_TOKEN": token}


def signature(sas_token: str) -> str:
    return urllib.parse.parse_qs(sas_token)["sig"][0]


# On Azurite


def test_sas_token_is_enough(azurite, lake_settings, monkeypatch):
    monkeypatch.setenv("AZURE_CLIENT_ID", "an application that the service is asked by")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "its secret")
    monkeypatch.setenv("AZURE_TENANT_ID", "its tenant")
    lake = build_lake(load_settings(with_sas(lake_settings, "?" + azurite.sas_token())))
    assert store(lake, study("1.2")).inserted == 1
    assert store(lake, study("1.2", patientSex="F")).updated == 1


def test_container_that_is_missing(signing, lake_settings):
    message = refusal(signing | lake_settings | {"DICOM_CONTAINER_NAME": "nowhere"})
    assert "abfss://nowhere@hospitallake.dfs.core.windows.net/study: 404 ContainerNotFound. " in message
    assert "create it" in message
    assert "DICOM_CONTAINER_NAME" in message


def test_container_that_was_deleted(azurite, signing, lake_settings, container):
    lake = build_lake(load_settings(signing | lake_settings))
    store(lake, study("1.2"))
    azurite.change_container("DELETE", container)
    assert "soft delete" in refusal(signing | lake_settings)


def test_key_of_another_account(lake_settings):
    key = base64.b64encode(MARKER.encode() * 7).decode()
    message = refusal(with_key(lake_settings, key), secrets=[key])
    assert "AZURE_STORAGE_ACCOUNT_KEY is no key of this account: it has a typo" in message


def test_key_with_a_typo(azurite, lake_settings):
    key = ("B" if azurite.key.startswith("A") else "A") + azurite.key[1:]
    message = refusal(with_key(lake_settings, key), secrets=[key[4:]])
    assert "AZURE_STORAGE_ACCOUNT_KEY is no key of this account: it has a typo" in message


def test_sas_token_that_has_expired(azurite, lake_settings):
    token = azurite.sas_token(until="2026-01-01T00:00:00Z")
    message = refusal(with_sas(lake_settings, token), secrets=[signature(token), token])
    assert "403 AuthorizationFailure. AZURE_STORAGE_SAS_TOKEN has expired" in message


def test_sas_token_that_may_only_read(azurite, lake_settings):
    token = azurite.sas_token(rights="rl")
    message = refusal(with_sas(lake_settings, token), secrets=[signature(token), token])
    assert "403 AuthorizationPermissionMismatch. AZURE_STORAGE_SAS_TOKEN lacks a right" in message
    assert "racwdl" in message


def test_right_that_is_lost_before_the_commit_is_no_lost_commit(azurite, account_key, lake_settings, monkeypatch):
    lake = build_lake(load_settings(account_key | lake_settings))
    store(lake, study("1.2"))
    reader = build_lake(load_settings(with_sas(lake_settings, azurite.sas_token(rights="rl"))))
    commit, folder = lake._commit, reader.open(STUDY).folder

    def commit_without_rights(snapshot, actions) -> None:
        commit(replace(snapshot, folder=folder), actions)

    monkeypatch.setattr(lake, "_commit", commit_without_rights)
    with pytest.raises(LakeUnavailableError, match=r"^Could not commit to .*: 403 AuthorizationPermissionMismatch\. "):
        store(lake, study("1.3"))


def test_sas_token_that_was_cut(azurite, lake_settings):
    whole = azurite.sas_token()
    token = whole.replace(urllib.parse.quote(signature(whole), safe=""), urllib.parse.quote(signature(whole)[:20]))
    message = refusal(with_sas(lake_settings, token), secrets=[signature(token)])
    assert "AZURE_STORAGE_SAS_TOKEN has expired, is not whole" in message


def test_token_of_another_tenant(client_secret, lake_settings, entra):
    entra.issuer = "https://login.example/33333333-3333-3333-3333-333333333333/"
    message = refusal(client_secret | lake_settings)
    assert "403 AuthenticationFailed. The account does not accept the identity's token" in message
    assert "another tenant" in message


def test_identity_without_a_token(client_secret, lake_settings, entra):
    entra.refusal = (401, {"error": "invalid_client", "error_description": "AADSTS7000222: expired."})
    message = refusal(client_secret | lake_settings)
    assert message.startswith("The lake in the storage account hospitallake cannot be reached. No token for ")
    assert "AADSTS7000222" in message
    assert "AZURE_CLIENT_SECRET" in message


def test_authority_that_is_not_trusted(account_key, lake_settings, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "set SSL_CERT_FILE" in refusal(account_key | lake_settings, healing=True)


# What Azurite never says: in Azure's words


@contextmanager
def refusing(status: int, code: str, detail: str = "") -> Iterator[str]:
    """An account that answers everything with one refusal, in the form of the Blob service's errors."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            text = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{MARKER}</Message>'
            body = b"" if self.command == "HEAD" else f"{text}<Detail>{self.path}{detail}</Detail></Error>".encode()
            self.send_response(status)
            for name, value in {"x-ms-error-code": code, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    for method in ("GET", "HEAD", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.refuse)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/account"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "AuthorizationPermissionMismatch", 'Grant the identity the "Storage Blob Data Contributor" role'),
        (403, "AuthorizationFailure", "firewall"),
        (401, "InvalidAuthenticationInfo", "another tenant"),
        (401, "NoAuthenticationInformation", "does not accept the identity's token"),
        (403, "KeyBasedAuthenticationNotPermitted", "use an identity"),
        (403, "AccountIsDisabled", "subscription"),
        (409, "ContainerBeingDeleted", "restore it (soft delete"),
        (404, "ContainerNotFound", "create it"),
    ],
)
def test_refusal_of_an_identity(client_secret, status, code, advice):
    with refusing(status, code) as url:
        message = refusal(client_secret | {"DICOM_STORAGE_URL": url}, healing=code == "ContainerBeingDeleted")
    assert f"/study: {status} {code}. " in message
    assert advice in message


@pytest.mark.parametrize("status", [401, 403])
def test_token_that_the_account_finds_expired(client_secret, status):
    with refusing(status, "AuthenticationFailed", "Lifetime validation failed. The token is expired.") as url:
        message = refusal(client_secret | {"DICOM_STORAGE_URL": url}, healing=True)
    assert "The identity's token has expired." in message
    assert "tenant" not in message


def test_token_that_is_expired_by_its_own_words(client_secret, entra, monkeypatch):
    issue = entra.issue

    def issue_expired(audience: str, number: int = 0) -> str:
        entra.life_seconds, whole = -60, entra.life_seconds
        token = issue(audience, number)
        entra.life_seconds = whole
        return token

    monkeypatch.setattr(entra, "issue", issue_expired)
    with refusing(403, "AuthorizationFailure") as url:
        message = refusal(client_secret | {"DICOM_STORAGE_URL": url}, healing=True)
    assert "The identity's token has expired." in message


def test_role_that_is_missing_is_told_whatever_the_token_says():
    found = explain_refusal(
        "403 Forbidden <Code>AuthorizationPermissionMismatch</Code>", Signing.IDENTITY, LAKE, has_expired=True
    )
    assert found.advice.startswith("Grant the identity")
    assert found.is_final


@pytest.mark.parametrize(
    ("detail", "until"),
    [
        ("", "2026-01-01T00:00:00Z"),
        ("", "2026-01-01"),
        ("Signature not valid in the specified time frame: Start", "2099-01-01"),
    ],
)
def test_sas_token_that_the_account_or_the_token_itself_says_is_expired(detail, until):
    token = f"sv=2022-11-02&sp=racwdl&se={urllib.parse.quote(until)}&sig={MARKER}"
    with refusing(403, "AuthenticationFailed", detail) as url:
        message = refusal(with_sas({"DICOM_STORAGE_URL": url}, token), secrets=[token])
    assert "AZURE_STORAGE_SAS_TOKEN has expired, or begins in the future. Make a new one" in message


def test_no_secret_reaches_dagster(azurite):
    token = azurite.sas_token()
    with Service() as service, serve(service) as url, refusing(403, "AuthenticationFailed") as account:
        environment = {"DICOM_SERVICE_URL": url, "DICOM_START_TIME": "2026-03-01T00:00Z", "DICOM_STORAGE_URL": account}
        job = build_definitions(load_settings(with_sas(environment, token))).resolve_implicit_global_asset_job_def()
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(instance=instance, partition_key="2026-03-01-00:00", raise_on_error=False)
            events = "\n".join(repr(record) for record in instance.all_logs(result.run_id))
    assert "AZURE_STORAGE_SAS_TOKEN is not accepted" in events
    for secret in (MARKER, signature(token), urllib.parse.quote(signature(token), safe=""), "sig="):
        assert secret not in events


# In words


@pytest.mark.parametrize(
    ("text", "reason", "advice"),
    [
        ("Error performing HEAD … status code: 403 Forbidden: ", "403", "firewall"),
        ("Server returned non-2xx status code: 418 Teapot: ", "418", "Check DICOM_STORAGE_URL"),
        ("503 Service Unavailable <Code>ServerBusy</Code>", "503 ServerBusy", "try again"),
        ("429 Too Many Requests: ", "429", "try again later, with fewer runs"),
        ("429 Too Many Requests: <Code>TooManyRequests</Code>", "429 TooManyRequests", "try again"),
        ("502 Bad Gateway: ", "502", "try again"),
        ("Generic error\n ↳ Invalid Access Key\n ↳ Invalid length", "Invalid Access Key: Invalid length", "base64"),
        ("Generic MicrosoftAzure error: Missing component in SAS query pair", "Generic", "no SAS token"),
        ("GET https://a.example/?sig=x\n ↳ client error (Connect)\n ↳ dns error", "client error (Connect): dns", "DNS"),
        ("failed for https://a.example/c?sv=1&sig=x", "failed for …", "Check DICOM_STORAGE_URL"),
        ("\x1b[31mred\x1b[0m", "red", "Check DICOM_STORAGE_URL"),
        ("short\n\nDebug source:\nlong", "short", "Check DICOM_STORAGE_URL"),
    ],
)
@pytest.mark.parametrize("signing", Signing)
def test_reason_is_short_and_has_no_query(text, reason, advice, signing):
    found = explain_refusal(text, signing, LAKE)
    assert found[0].startswith(reason)
    assert advice in found[1]
    assert "sig" not in found[0]
