"""The doctor before an account of Azurite: the trials it makes there, and what it says of refusals."""

from collections.abc import Iterator
from datetime import UTC, datetime

import obstore
import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.finding import Finding, Status
from dicom_assets.doctor.examination import choose_checks, examine
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.azure.test_lake import AUDIENCE
from dicom_assets_tests.azure.test_refusals import MARKER, refusing
from dicom_assets_tests.azure.token_server import OBJECT, SECRET, TENANT
from dicom_assets_tests.lakes.building import store, study

TRIALS = {f"lake.{name}" for name in ("write", "list", "delete", "appends", "writers")}


@pytest.fixture
def service() -> Iterator[dict[str, str]]:
    """Settings of a service that wants tokens for its audience."""
    with Service() as service, serve(service, audience=AUDIENCE) as url:
        yield {"DICOM_SERVICE_URL": url, "DICOM_START_TIME": "2026-03-01T00:00Z"}


def findings(environment: dict[str, str], *names: str) -> dict[str, Finding]:
    surroundings = Surroundings(lambda: load_settings(environment), lambda: datetime.now(UTC))
    found = {finding.check: finding for finding in examine(surroundings, choose_checks(names))}
    for secret in (MARKER, SECRET, "hidden"):
        assert secret not in repr(found)
    return found


def test_account_passes_every_trial_and_is_left_as_it_was(service, signing, lake_settings):
    environment = service | signing | lake_settings
    lake = build_lake(load_settings(environment))
    store(lake, study("1.2"))

    def files() -> list[str]:
        return sorted(file["path"] for file in obstore.list(lake.storage.open_store("")).collect())

    before = files()
    found = findings(environment, "token.storage", "lake")
    assert {finding.status for finding in found.values()} == {Status.GREEN}, found
    assert found.keys() >= TRIALS | {"lake.clean"}
    assert "has 1 of the 5 tables" in found["lake.reach"].found
    assert files() == before


def test_tokens_of_an_application_are_told_and_the_feed_is_read_with_one(service, client_secret, lake_settings):
    found = findings(service | client_secret | lake_settings, "token", "service")
    assert {finding.status for finding in found.values()} == {Status.GREEN}, found
    for check, audience in (("token.service", AUDIENCE), ("token.storage", "https://storage.azure.com")):
        assert f"There is a token for {audience}, valid until " in found[check].found
        assert f"identity {OBJECT}, tenant {TENANT}" in found[check].found
    assert "401 to a request without a token" in found["service.reachable"].found


def test_identity_without_the_role_is_told_which_to_grant_and_to_whom(service, client_secret):
    with refusing(403, "AuthorizationPermissionMismatch") as account:
        found = findings(service | client_secret | {"DICOM_STORAGE_URL": account}, "lake")
    finding = found["lake.reach"]
    assert finding.status is Status.RED
    assert finding.found.endswith("403 AuthorizationPermissionMismatch")
    assert finding.remedy.startswith('Grant the identity the "Storage Blob Data Contributor" role')
    assert finding.remedy.endswith(f"The identity's object id is {OBJECT}")
    assert {found[check].status for check in TRIALS} == {Status.SKIPPED}


def test_missing_container_is_red(service, account_key, lake_settings):
    found = findings(service | account_key | lake_settings | {"DICOM_CONTAINER_NAME": "nowhere"}, "lake.reach")
    assert found["lake.reach"].status is Status.RED
    assert found["lake.reach"].found.endswith("404 ContainerNotFound")
    assert "create it" in found["lake.reach"].remedy


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_tenant_that_the_account_does_not_trust_is_red(service, signing, lake_settings, entra):
    entra.issuer = "https://login.example/33333333-3333-3333-3333-333333333333/"
    finding = findings(service | signing | lake_settings, "lake.reach")["lake.reach"]
    assert (finding.status, "another tenant" in finding.remedy) == (Status.RED, True), finding
