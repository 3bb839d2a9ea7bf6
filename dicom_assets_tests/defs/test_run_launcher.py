"""Whether a run's code server is still there, as far as a socket tells."""

import json
import socket
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dicom_assets.defs import run_launcher
from dicom_assets.defs.dagster_private import WorkerStatus
from dicom_assets.defs.run_launcher import WatchedRunLauncher

ROOT = Path(__file__).parents[2]


def health(place: dict | None) -> WorkerStatus:
    tags = {} if place is None else {".dagster/grpc_info": json.dumps(place)}
    return WatchedRunLauncher().check_run_worker_health(dg.DagsterRun("hours", tags=tags)).status


def test_run_of_a_command_counts_as_running():
    assert health(None) is WorkerStatus.RUNNING


def test_run_is_lost_when_nobody_listens_where_its_code_server_did(tmp_path):
    place = {"host": "localhost", "socket": str(tmp_path / "socket")}
    assert health(place) is WorkerStatus.FAILED
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place["socket"])
        server.listen()
        assert health(place) is WorkerStatus.RUNNING
    assert health(place) is WorkerStatus.FAILED, "its file stays when a machine loses power"


def test_run_is_lost_when_a_port_refuses():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert health({"host": "127.0.0.1", "port": taken.getsockname()[1]}) is WorkerStatus.FAILED


def test_run_counts_as_running_where_the_name_of_its_code_server_is_unknown_for_now(monkeypatch):
    def fail(*given, **named):
        raise socket.gaierror

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(run_launcher, "_PATIENCE_SECONDS", 1)
    assert health({"host": "code.invalid", "port": 4000}) is WorkerStatus.RUNNING


@pytest.mark.parametrize("path", ["dagster.yaml", "deploy/compose/dagster.yaml"])
def test_instances_have_it(path):
    launcher = yaml.safe_load((ROOT / path).read_text())["run_launcher"]
    assert launcher == {"module": WatchedRunLauncher.__module__, "class": WatchedRunLauncher.__name__}
