"""Dagster's default run launcher, which also detects that a run died together with its code server.

The code server reports runs that die. If the code server itself dies (a power cut, a container that is killed or
replaced), Dagster would consider the run in progress, and the run would block its slot in the pool, until the run's
maximum runtime is over.
"""

import json
import socket
from typing import Any

from dagster import DagsterError, DagsterRun, DefaultRunLauncher

from dicom_assets.defs.dagster_private import GRPC_INFO_TAG, CheckRunHealthResult, WorkerStatus, is_executing

_PATIENCE_SECONDS = 10


class WatchedRunLauncher(DefaultRunLauncher):
    """Run launcher that asks the code server about its runs when Dagster's run monitoring checks them."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Permission for run monitoring to check the health of a run's worker."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the code server that got the run still executes it; RUNNING while that is not known."""
        if GRPC_INFO_TAG not in run.tags:  # a run of a command, executed in the command's own process
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        place = json.loads(run.tags[GRPC_INFO_TAG])
        if _is_gone(place):
            return CheckRunHealthResult(WorkerStatus.FAILED, "The code server that executed the run is gone.")
        if not place.get("socket") and not _has(place, run.run_id):  # a socket belongs to only one code server
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The code server was started again without the run.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _has(place: dict[str, Any], run_id: str) -> bool:
    """Return whether a code server executes a run; True as long as the server does not answer."""
    host, port, use_ssl = place["host"], place["port"], bool(place.get("use_ssl"))
    try:
        return is_executing(run_id, host=host, port=port, use_ssl=use_ssl, timeout_seconds=_PATIENCE_SECONDS)
    except DagsterError:
        return True


def _is_gone(place: dict[str, Any]) -> bool:
    """Return whether no server listens at the address of a code server.

    A server that is slow, or whose name cannot be resolved at present, may come back, so it does not count as gone.
    """
    try:
        if place.get("socket"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PATIENCE_SECONDS)
                probe.connect(place["socket"])
        else:
            socket.create_connection((place["host"], place["port"]), _PATIENCE_SECONDS).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False
