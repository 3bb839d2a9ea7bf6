from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.settable_clock import SettableClock
from dicom_assets_tests.processes import PATIENCE_SECONDS

START = datetime(2026, 3, 1, tzinfo=UTC)


def minutes(count: float) -> datetime:
    return START + timedelta(minutes=count)


def metadata_of(study="1.2", series="1.2.3", instance="1.2.3.4", name="Doe^Jo"):
    return {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00080018": {"vr": "UI", "Value": [instance]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
    }


def renamed(name):
    return {"00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}}


def name_in(entry):
    return entry["metadata"]["00100010"]["Value"][0]["Alphabetic"]


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(START)


@pytest.fixture
def service(clock: SettableClock) -> Iterator[Service]:
    with Service(clock=clock) as service:
        yield service


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with serve(service) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}/v2/", timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def feed(client: httpx.Client) -> Callable[..., list]:
    """A page of the feed over HTTP."""

    def read(**parameters):
        response = client.get("changefeed", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    return read
