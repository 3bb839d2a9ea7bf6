"""A service, a lake, files and a home of Dagster, all well; tests break one of them."""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken

from dicom_assets.config import connections
from dicom_assets.config.settings import load_settings
from dicom_assets.core.finding import Finding
from dicom_assets.doctor import service as service_checks
from dicom_assets.doctor.examination import choose_checks, examine
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.query.files import instances
from dicom_assets_tests.emulator.conftest import metadata_of
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import START, World, hours

ROOT = Path(__file__).parents[2]
SECRET = "hidden-signature"


def build_token(**claims: object) -> str:
    """A JSON Web Token as Microsoft Entra makes them."""
    content = {
        "aud": "https://dicom.healthcareapis.azure.com",
        "exp": int(time.time()) + 86400,  # some are made when tests are collected
        "oid": "11111111-0000-0000-0000-000000000000",
        "tid": "22222222-0000-0000-0000-000000000000",
        "appid": "33333333-0000-0000-0000-000000000000",
        "upn": "jo.doe@example.org",
        **claims,
    }
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "RS256"}, content)]
    return b".".join([*parts, SECRET.encode()]).decode()


class Identity:
    """Hands out one token, whatever it is asked for."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)


@dataclass
class Ward:
    """What the doctor looks at."""

    env: dict[str, str]
    folder: Path
    service: Service
    monkeypatch: pytest.MonkeyPatch

    def identify(self, token: str) -> None:
        """Has the project use an identity that is given this token."""
        self.env["DICOM_AUTHENTICATION"] = "managed_identity"
        self.monkeypatch.setattr(connections, "build_credential", lambda *_, **__: Identity(token))

    def examine(self, *names: str, **options: object) -> dict[str, Finding]:
        """Findings by check."""
        surroundings = Surroundings(
            lambda: load_settings(self.env),
            lambda: datetime.now(UTC),
            dagster_home=self.env.get("DAGSTER_HOME"),
            **options,
        )
        found = {finding.check: finding for finding in examine(surroundings, choose_checks(names))}
        assert SECRET not in repr(found)
        assert "jo.doe" not in repr(found)
        return found

    def statuses(self, *names: str) -> dict[str, str]:
        return {name: finding.status.value for name, finding in self.examine(*names).items()}


@pytest.fixture
def ward(tmp_path, monkeypatch) -> Iterator[Ward]:
    monkeypatch.setattr(service_checks, "_RETRY", service_checks.RetryPolicy(tries=2, first_wait_seconds=0))
    with Service(file_store=tmp_path / "files") as service, serve(service) as url:
        service.store_metadata(metadata_of(), at=START, write_file=True)
        World(service, build_lake(tmp_path / "lake")).run_chain(hours(0))
        (tmp_path / "home").mkdir()
        shutil.copy(ROOT / "dagster.yaml", tmp_path / "home")
        env = {
            "DICOM_SERVICE_URL": url,
            "DICOM_AUTHENTICATION": "none",
            "DICOM_START_TIME": START.isoformat(),
            "DICOM_STORAGE_URL": str(tmp_path),
            "DICOM_CONTAINER_NAME": "lake",
            "DICOM_FILE_SYSTEM_URL": str(tmp_path / "files"),
            "DAGSTER_HOME": str(tmp_path / "home"),
        }
        yield Ward(env, tmp_path, service, monkeypatch)
    instances._archive.cache_clear()
