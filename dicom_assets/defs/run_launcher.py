"""Dagster's default run launcher, which also detects that a run died together with its code server.

The code server reports runs that die. If the code server itself dies (a power cut, a container that is killed or
replaced), Dagster would consider the run in progress, and the run would block its slot in the pool, until the run's
maximum runtime is over.
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
    """Run launcher that asks the code server about its runs when Dagster's run monitoring checks them."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True if run monitoring may check the health of a run's worker: always True."""
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
    # Imported here since most processes that have a launcher never need it.
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
