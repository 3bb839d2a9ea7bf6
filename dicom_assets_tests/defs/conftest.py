from collections.abc import Iterator

import dagster as dg
import pytest

from dicom_assets.defs.checks import failure
from dicom_assets_tests.defs.deployment import Deployment, deploy


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Runs in this process fail at their first error that would heal, instead of minutes later."""
    monkeypatch.setattr(failure, "RETRIES", dg.RetryPolicy(max_retries=0))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> Iterator[Deployment]:
    """The project deployed for all tests of a file."""
    with deploy(tmp_path_factory.mktemp("deployed")) as deployed:
        yield deployed
