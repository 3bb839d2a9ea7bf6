"""Workers of Celery that execute runs, as deploy/celery has them: one run at a time, each in a process of its own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_assets_tests.defs.deployment import process, wait_for
from dicom_assets_tests.deploy import postgres, redis
from dicom_assets_tests.processes import PROJECT

URL = "DAGSTER_CELERY_URL"
REQUIRED = "REQUIRE_CLUSTER"
CONFIGURATION = PROJECT / "deploy" / "celery"


def find_missing() -> str:
    """What a cluster on this machine lacks, in words; nothing if it can be had."""
    there = {
        "Postgres (Debian: apt-get install postgresql)": postgres.PROGRAMS,
        "Redis (Debian: apt-get install redis-server)": redis.PROGRAM,
        "dagster-celery and dagster-postgres (`make cluster`)": (
            find_spec("dagster_celery") and find_spec("dagster_postgres")
        ),
    }
    return ", ".join(name for name, found in there.items() if not found)


def require_cluster() -> None:
    """Skips the test where something is missing, and fails it where nothing may be missing."""
    if missing := find_missing():
        assert not os.environ.get(REQUIRED), f"Missing: {missing}; and {REQUIRED}=1 lets no test be skipped."
        pytest.skip(f"needs {missing}")


def run_launcher() -> dict[str, Any]:
    """The section of dagster.yaml."""
    return yaml.safe_load((CONFIGURATION / "run_launcher.yaml").read_text())["run_launcher"]


@contextmanager
def work(folder: Path, env: Mapping[str, str], count: int) -> Iterator[None]:
    """Workers that are ready, until the block ends; what they write lies in the folder."""
    with ExitStack() as stack:
        logs = [folder / f"worker-{number}.log" for number in range(count)]
        for log in logs:
            command = ["celery", "-A", "dagster_celery.app", "worker", "-l", "INFO", "-n", f"{log.stem}@%h"]
            stack.enter_context(process(log, {**env, "PYTHONPATH": str(CONFIGURATION)}, *command))
        wait_for(lambda: all(" ready." in log.read_text() for log in logs), "the workers")
        yield
