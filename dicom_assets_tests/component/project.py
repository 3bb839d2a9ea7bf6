"""A Dagster project as create-dagster lays it out, with two components beside assets and jobs of its own."""

import subprocess
import sys
from pathlib import Path

from dicom_assets_tests.processes import PATIENCE_SECONDS, clean_environment

PACKAGE = "hospital"

PYPROJECT = """
[project]
name = "hospital"
requires-python = ">=3.11,<3.15"
version = "0.1.0"
dependencies = ["dagster", "dicom-assets"]

[dependency-groups]
dev = ["dagster-webserver", "dagster-dg-cli"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "hospital"
registry_modules = ["hospital.components.*"]
"""

DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""

OWN = """
import dagster as dg


@dg.asset(key_prefix="research")
def instance():
    return 1


@dg.asset
def broken():
    raise ValueError("broken on purpose")


@dg.op
def audit_all_rows(): ...


@dg.job
def hours():
    audit_all_rows()


@dg.sensor(job=hours)
def catch_up():
    yield dg.SkipReason("nothing to do")


@dg.definitions
def own():
    return dg.Definitions(
        assets=[instance, broken],
        jobs=[hours],
        sensors=[catch_up],
        resources={"delta": "a resource of the project", "dicom_service": "another"},
        executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    )
"""

NORTH = """
type: dicom_assets.DicomLakeComponent

attributes:
  service_url: "{{ env.NORTH_URL }}"
  start_time: 2026-03-01T00:00Z
  authentication: none
  storage_url: "{{ context.project_root }}/data"
  container_name: north
  key_prefix: radiology/north
  owners: ["team:radiology"]
  alert_webhook_url: "{{ env.ALERT_URL }}"

post_processing:
  assets:
    - target: "key:radiology/north/study"
      attributes:
        tags: { retention: long }
"""

CARDIOLOGY = """
type: dicom_assets.DicomLakeComponent

attributes:
  service_url: "{{ env.CARDIOLOGY_URL }}"
  start_time: "2026-03-01T00:00Z"
  authentication: none
  storage_url: ../../../../lake
  extra_columns: columns.toml
  key_prefix: cardiology
  group_name: heart
  automation: running
  alert_webhook_url: "{{ env.ALERT_URL }}"
"""

COLUMNS = """
[columns]
stationName = "StationName"
"""


def write_project(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Write the project, with more files of its `defs` folder, and return its package."""
    package = folder / "src" / PACKAGE
    for part in ("defs/own", "components"):
        (package / part).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    for module in ("__init__.py", "defs/__init__.py", "components/__init__.py"):
        (package / module).touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (package / "defs/own/definitions.py").write_text(OWN)
    for name, text in (files or {}).items():
        path = package / "defs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def run_dg(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Return the exit code of `dg` in a project, and everything that it printed."""
    env = clean_environment(PYTHONPATH=str(folder / "src"), DAGSTER_DISABLE_TELEMETRY="1", NO_COLOR="1", **variables)
    result = subprocess.run(
        [Path(sys.executable).parent / "dg", *arguments],
        cwd=folder,
        env={"COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr
