"""Dagster's own run launcher, which also notices that a run is gone together with the code server that ran it.

The code server tells of runs that die. Where it dies itself (a power cut, a container that is killed or replaced), the
run would be thought to be running, and keep its place in the pool from all others, until its longest time is over.
"""

import json
import socket
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._serdes import deserialize_value

_PATIENCE_SECONDS = 10


class WatchedRunLauncher(DefaultRunLauncher):
    """Launches runs in the code server, and asks it about them when Dagster's run monitoring wants to know."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the code server that was given the run has it; as long as that is not known, it counts as running."""
        if GRPC_INFO_TAG not in run.tags:  # of a command, in whose own process it runs
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        place = json.loads(run.tags[GRPC_INFO_TAG])
        if _is_gone(place):
            return CheckRunHealthResult(WorkerStatus.FAILED, "The code server that executed the run is gone.")
        if not place.get("socket") and not _has(place, run.run_id):  # a socket belongs to one code server alone
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The code server was started again without the run.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _has(place: dict[str, Any], run_id: str) -> bool:
    """Whether a code server executes a run; as long as it does not say, it does."""
    # Most processes that have a launcher never ask.
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult

    client = DagsterGrpcClient(host=place["host"], port=place["port"], use_ssl=bool(place.get("use_ssl")))
    request = CanCancelExecutionRequest(run_id=run_id)
    try:
        answer = client.can_cancel_execution(request, timeout=_PATIENCE_SECONDS)
    except DagsterUserCodeUnreachableError:
        return True
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _is_gone(place: dict[str, Any]) -> bool:
    """Whether nobody listens where a code server did. What is slow, or has no name for now, may come back."""
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
