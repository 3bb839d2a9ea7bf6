"""A worker of Celery that could execute no run is not started, and says what it lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_assets_tests.deploy import celery

pytestmark = pytest.mark.deep

WITHOUT_PROJECT = """
import sys

class Nowhere:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "dicom_assets":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nowhere)
"""
"""As `sitecustomize`, Python's own hook, it takes the project away from a process."""


def start_worker(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A worker that must end by itself: nobody answers at the broker's port."""
    pytest.importorskip("dagster_celery", reason="`make cluster` installs it")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DICOM_", "DAGSTER_"))}
    env |= {"PYTHONPATH": f"{folder}{os.pathsep}{celery.CONFIGURATION}", celery.URL: "redis://127.0.0.1:1/0"}
    command = [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker", "-n", "worker@%h"]
    env |= settings
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_worker_without_the_project_is_not_started_and_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PROJECT)
    worker = start_worker(tmp_path)
    assert worker.returncode == 1
    assert "No worker was started" in worker.stderr
    assert f"dicom_assets is not installed for {sys.executable}" in worker.stderr
    assert "pip install" in worker.stderr


def test_worker_whose_settings_cannot_be_used_is_not_started_and_names_them(tmp_path):
    worker = start_worker(tmp_path, DICOM_SERVICE_URL="https://ws-svc.dicom.azurehealthcareapis.com")
    assert worker.returncode == 1
    assert "Its settings cannot be used." in worker.stderr
    assert "DICOM_START_TIME" in worker.stderr
