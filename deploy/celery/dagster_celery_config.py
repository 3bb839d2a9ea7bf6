"""What a worker of Celery is told: it lies in a folder of PYTHONPATH, under this name (docs/deploy.md)."""

import os
import subprocess
import sys
from typing import NoReturn

from celery.signals import celeryd_init

broker_url = result_backend = os.environ["DAGSTER_CELERY_URL"]
broker_connection_retry_on_startup = True  # the worker may be there before Redis
worker_concurrency = 1  # runs at a time; each may take DICOM_MAX_MEMORY_MB
worker_disable_prefetch = True  # a run that waits goes to a worker that is free, not behind another run
worker_max_tasks_per_child = 1  # a process for each run, killed without harm to others, and its memory comes back


@celeryd_init.connect
def require_project(**_: object) -> None:
    """End a worker without the project or settings that can be used: it would take run after run, and fail each."""
    try:
        import dicom_assets  # noqa: F401
    except ImportError:
        _refuse(
            f"dicom_assets is not installed for {sys.executable}. Install the version that the code server has: "
            "pip install 'dicom-assets[celery,cluster]==VERSION'."
        )
    # In a process of its own: whatever a worker loads, its runs inherit.
    doctor = [sys.executable, "-m", "dicom_assets.cli", "doctor", "settings"]
    look = subprocess.run(doctor, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    if look.returncode:
        _refuse(f"Its settings cannot be used. Give it those of the code server.\n{look.stdout or look.stderr}")


def _refuse(why: str) -> NoReturn:
    raise SystemExit(f"No worker was started, since every run that it took would fail. {why}")
