"""Whether the process of a run is as new as the code location that asked for it: workers are upgraded one by one.

A worker that was forgotten would write rows without what came since, and no check of its own would know.
"""

import re
import socket
from importlib.metadata import version

import dagster as dg

from dicom_assets.core.errors import OutdatedError

VERSION = version("dicom-assets")
VERSION_TAG = "dicom_assets/version"
"""Of every asset's step. Dagster keeps it with each run, as the code location had it that asked for the run."""


def require_recent(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Makes sure that no newer version than this one asked for the run. An older one may have: before an upgrade.

    Raises:
        OutdatedError: a newer one did.
    """
    asked = _find_version(instance, run)
    if asked and _order(asked) > _order(VERSION):
        raise OutdatedError(
            f"dicom_assets {asked} asked for this run, and the process that executes it, on {socket.gethostname()}, "
            f"has the older {VERSION}. Rows would lack what came in between, so nothing was written. Upgrade the "
            f"worker there (pip install 'dicom-assets=={asked}', with its extras), start it anew, and run the hours "
            "again."
        )


def _find_version(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    if run.job_snapshot_id is None:
        return None
    steps = instance.get_job_snapshot(run.job_snapshot_id).node_defs_snapshot.op_def_snaps
    return next((str(step.tags[VERSION_TAG]) for step in steps if VERSION_TAG in step.tags), None)


def _order(text: str) -> list[int]:
    """Of a release: whatever follows its numbers is left out."""
    release = re.match(r"[\d.]*", text)
    return [int(number) for number in (release[0] if release else "").split(".") if number]
