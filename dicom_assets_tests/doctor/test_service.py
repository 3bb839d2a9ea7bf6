"""Tokens and the service: what is well, and what each way of being unwell looks like."""

import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest
from azure.core.exceptions import ClientAuthenticationError
from starlette.responses import Response

from dicom_assets.core.finding import Status
from dicom_assets.doctor import service as checks
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.doctor.conftest import SECRET, Identity, build_token
from dicom_assets_tests.service.feed_server import FeedServer

OBJECT_ID = "11111111-0000-0000-0000-000000000000"


def test_token_is_described_by_its_claims_alone(ward):
    ward.identify(build_token(roles=["Dicom.Reader", "Dicom.Owner"], scp="user_impersonation"))
    finding = ward.examine("token")["token.service"]
    assert finding.status is Status.GREEN
    assert "roles Dicom.Reader Dicom.Owner" in finding.found
    assert f"identity {OBJECT_ID}, tenant 22222222" in finding.found
    assert set(finding.facts) == {
        "audience", "object_id", "application_id", "tenant_id", "roles", "scopes", "expires_at",
    }  # fmt: skip
    assert finding.facts["scopes"] == "user_impersonation"


def test_token_for_another_audience_is_red_and_the_feed_is_not_asked(ward):
    ward.identify(build_token(aud="https://management.azure.com/"))
    found = ward.examine("service")
    assert found["token.service"].status is Status.RED
    assert "is for https://management.azure.com, not for https://dicom.healthcareapis" in found["token.service"].found
    assert "DICOM_TOKEN_SCOPE" in found["token.service"].remedy
    assert found["service.feed"].found == "Not checked: token.service must be green first"
    assert found["service.clock"].status is Status.GREEN


@pytest.mark.parametrize(
    ("token", "status", "told"),
    [
        (build_token(exp=int(time.time()) - 60), Status.RED, "The token expired at"),
        (build_token(exp=None, oid=None), Status.GREEN, "identity without an object id"),
        (build_token(roles="Reader"), Status.GREEN, "roles Reader"),
        (build_token(aud="4f6778d8-5aef-43dc-a1ff-b073724b9495"), Status.YELLOW, "for the application 4f6778d8"),
        (f"opaque-{SECRET}", Status.YELLOW, "cannot be looked into"),
        (f"a.!!!!.{SECRET}", Status.YELLOW, "cannot be looked into"),
        (f"a.MQ.{SECRET}", Status.YELLOW, "cannot be looked into"),
    ],
)
def test_token_of_each_kind(ward, token, status, told):
    ward.identify(token)
    finding = ward.examine("token.service")["token.service"]
    assert finding.status is status
    assert told in finding.found


def test_identity_that_gets_no_token_is_red(ward, monkeypatch):
    def refuse(*scopes, **_):
        raise ClientAuthenticationError(f"AADSTS700016 {SECRET}")

    ward.identify("")
    monkeypatch.setattr(Identity, "get_token", refuse)
    finding = ward.examine("token.service")["token.service"]
    assert finding.status is Status.RED
    assert "AADSTS700016" in finding.found
    assert "managed identity" in finding.remedy


def test_lake_in_an_account_needs_a_token_for_storage(ward):
    ward.env["DICOM_STORAGE_URL"] = "https://account.dfs.core.windows.net"
    ward.identify(build_token(aud="https://storage.azure.com"))
    assert ward.examine("token.storage")["token.storage"].status is Status.GREEN
    ward.identify(build_token())
    found = ward.examine("token.storage", "lake")
    assert found["token.storage"].status is Status.RED
    assert {finding.status for name, finding in found.items() if name.startswith("lake.")} == {Status.SKIPPED}


def test_refused_reader_is_told_which_role_to_grant_to_whom(ward):
    ward.identify(build_token())
    with Service() as service, serve(service, intercept=lambda _: Response(SECRET, 403)) as url:
        ward.env["DICOM_SERVICE_URL"] = url
        found = ward.examine("service")
    assert found["service.reachable"].status is Status.GREEN
    assert "403 to a request without a token" in found["service.reachable"].found
    assert found["service.feed"].status is Status.RED
    assert '"DICOM Data Reader" role' in found["service.feed"].remedy
    assert found["service.feed"].remedy.endswith(f"The identity's object id is {OBJECT_ID}")


def test_token_that_the_service_does_not_accept_is_red(ward):
    ward.identify(build_token())
    with Service() as service, serve(service, token="another") as url:
        ward.env["DICOM_SERVICE_URL"] = url
        finding = ward.examine("service.feed")["service.feed"]
    assert finding.status is Status.RED
    assert "401" in finding.found


def test_service_that_is_not_there_is_red(ward):
    ward.env["DICOM_SERVICE_URL"] = "http://127.0.0.1:1"
    found = ward.examine("service")
    assert found["service.reachable"].status is Status.RED
    assert "ConnectError" in found["service.reachable"].found
    assert "firewall" in found["service.reachable"].remedy
    assert found["service.clock"].found == "Not checked: service.reachable must be green first"


def test_busy_service_is_red_after_all_tries(ward):
    with Service() as service, serve(service, intercept=lambda _: Response(status_code=503)) as url:
        ward.env["DICOM_SERVICE_URL"] = url
        assert "2 times" in ward.examine("service.feed")["service.feed"].found


def test_empty_feed_can_be_read(ward):
    with Service() as service, serve(service) as url:
        ward.env["DICOM_SERVICE_URL"] = url
        finding = ward.examine("service.feed")["service.feed"]
    assert finding.status is Status.GREEN
    assert "no entry yet" in finding.found


def test_version_that_the_service_does_not_know_is_told(ward):
    def knows_only_2(request):
        return None if request.url.path.startswith("/v2/") else Response(status_code=400)

    ward.env["DICOM_API_VERSION"] = "7"
    with Service() as service, serve(service, intercept=knows_only_2) as url:
        ward.env["DICOM_SERVICE_URL"] = url
        finding = ward.examine("service.feed")["service.feed"]
    assert finding.status is Status.RED
    assert finding.remedy == "Set DICOM_API_VERSION=2, or unset it"
    with Service() as service, serve(service, intercept=lambda _: Response(status_code=404)) as url:
        ward.env["DICOM_SERVICE_URL"] = url
        assert "404" in ward.examine("service.feed")["service.feed"].found


@pytest.mark.parametrize(
    ("service_ahead_seconds", "status", "told"),
    [
        (5, Status.GREEN, "have the same time"),
        (120, Status.YELLOW, "behind the service's"),
        (-120, Status.YELLOW, "ahead of the service's"),
        (4000, Status.RED, "behind the service's"),
        (-4000, Status.RED, "ahead of the service's"),
    ],
)
def test_clock_that_differs_is_told(ward, monkeypatch, service_ahead_seconds, status, told):
    def date(self, timestamp=None):
        return formatdate(time.time() + service_ahead_seconds, usegmt=True)

    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", date)
    with FeedServer().running() as server:
        ward.env["DICOM_SERVICE_URL"] = server.url
        finding = ward.examine("service.clock")["service.clock"]
    assert (finding.status, told in finding.found) == (status, True), finding
    assert finding.facts["ahead_seconds"] == pytest.approx(-service_ahead_seconds, abs=10)
    assert ("materialise the last hours again" in finding.remedy) == (service_ahead_seconds == -4000)


def test_clock_ahead_by_more_than_the_delay_is_red(ward, monkeypatch):
    monkeypatch.setattr(
        BaseHTTPRequestHandler, "date_time_string", lambda self: formatdate(time.time() - 100, usegmt=True)
    )
    ward.env["DICOM_WINDOW_DELAY_MINUTES"] = "1"
    with FeedServer().running() as server:
        ward.env["DICOM_SERVICE_URL"] = server.url
        assert ward.examine("service.clock")["service.clock"].status is Status.RED
    assert checks.NOTICED_SECONDS < 60


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_service_without_a_time_is_yellow(ward, monkeypatch, date):
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: date)
    with FeedServer().running() as server:
        ward.env["DICOM_SERVICE_URL"] = server.url
        assert ward.examine("service.clock")["service.clock"].status is Status.YELLOW
