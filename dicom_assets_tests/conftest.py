import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from dicom_assets_tests.spark.classic import ClassicSpark, start_classic_spark
from dicom_assets_tests.spark.server import open_session, share_spark

ROOT = Path(__file__).parent
databases = count(1)
SLOW_ROOMS = {"azure", "cli", "component", "defs", "demo", "deploy", "law", "readers", "spark", "ui"}
"""Whose files take minutes."""
COVERED_ROOMS = {"law", "readers", "spark", "ui"}
"""Whose tests run again what others cover: measuring it would cost them a fifth of their time."""

# Ignored below a shell's background jobs: after a run of its own Dagster would have TERM ignored too, and all that the
# tests start would inherit both.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples take as long as the machine needs.
hypothesis.settings.register_profile(
    "patient", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

# Without it, as in the processes of pytest-xdist, pyspark believes that it tests itself. It speaks to Sail too.
vars(sys.modules["__main__"]).setdefault("__file__", __file__)


@pytest.fixture(scope="session")
def spark_url(tmp_path_factory, worker_id) -> Iterator[str]:
    """Where real Apache Spark with Delta listens (Spark Connect): one for all test processes."""
    own = tmp_path_factory.getbasetemp()
    with share_spark((own if worker_id == "master" else own.parent) / "spark") as url:
        yield url


@pytest.fixture
def spark(spark_url, worker_id):
    """A session of real Apache Spark with Delta; the tables it creates are in a database of its own."""
    with open_session(spark_url, f"{worker_id}_{next(databases)}") as session:
        yield session


@pytest.fixture(scope="module")
def shared_spark(spark_url, worker_id):
    """The same for all tests of a file."""
    with open_session(spark_url, f"{worker_id}_{next(databases)}") as session:
        yield session


@pytest.fixture(scope="session")
def spark_3_5(tmp_path_factory) -> Iterator[ClassicSpark]:
    """Real Apache Spark 3.5 with Delta 3.2, of this test process alone: keep what asks it in one file."""
    with start_classic_spark(tmp_path_factory.mktemp("spark-3.5")) as spark:
        yield spark


def _room(item) -> str:
    return item.path.relative_to(ROOT).parts[0]


def pytest_collection_modifyitems(items):
    """Files that take minutes begin first, so that no process ends with one while the others have nothing to do."""
    items.sort(key=lambda item: _room(item) not in SLOW_ROOMS)
    for item in items:
        if _room(item) in COVERED_ROOMS:
            item.add_marker("no_cover")


def pytest_collection_finish():
    """Where tests have Dagster at all: without it those of the core alone begin a second earlier."""
    if "dagster" in sys.modules:
        from dicom_assets_tests.quick_sqlite import hasten

        hasten()
