"""`make dev`: it starts, answers, and stops without leaving anything behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from dicom_assets.dev import DevError, run_dev
from dicom_assets.embedded import Day


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def quiet_signals():
    """Puts back the handlers that `run_dev` sets."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("option", ["port", "service_port"])
@pytest.mark.usefixtures("quiet_signals")
def test_taken_port_is_named_with_the_way_out(tmp_path, option):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        ports = {"port": free_port(), "service_port": 0, option: taken}
        expected = rf"Port {taken},.* `make dev ARGS=\"--{option.replace('_', '-')} \d+\"`"
        with pytest.raises(DevError, match=expected):
            run_dev(Console(quiet=True), folder=tmp_path, home=tmp_path, day=Day(1, 1), env={}, **ports)


def processes_of(folder):
    """Processes whose environment names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to see that no process is left")
def test_ui_starts_answers_and_stops(tmp_path):
    ui, service = free_port(), free_port()
    command = [sys.executable, "-m", "dicom_assets.cli", "dev", "--port", str(ui), "--service-port", str(service)]
    command += ["--hours", "2", "--instances", "20"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DICOM_", "DAGSTER_"))}
    env["DICOM_STORAGE_URL"] = str(tmp_path / "lake")
    log = tmp_path / "log"
    with log.open("wb") as output:
        dev = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        answer = None
        deadline = time.monotonic() + 120  # starting takes 10 s, on a busy machine several times that
        while answer is None and dev.poll() is None and time.monotonic() < deadline:
            try:
                answer = httpx.get(f"http://127.0.0.1:{ui}/server_info", timeout=5)
            except httpx.TransportError:
                time.sleep(0.5)
        assert answer is not None, log.read_text()
        assert answer.json()["dagster_version"]
        feed = httpx.get(f"http://127.0.0.1:{service}/v2/changefeed", params={"limit": 1, "includeMetadata": "false"})
        assert len(feed.json()) == 1
        assets = "{ assetNodes { assetKey { path } } }"
        graph = httpx.post(f"http://127.0.0.1:{ui}/graphql", json={"query": assets}, timeout=60).json()
        assert len(graph["data"]["assetNodes"]) == 5
    finally:
        dev.send_signal(signal.SIGINT)
        try:
            status = dev.wait(60)
        except subprocess.TimeoutExpired:
            dev.kill()
            raise
    assert status == 0, log.read_text()
    assert "Stopped." in log.read_text()
    assert "Traceback" not in log.read_text()
    deadline = time.monotonic() + 20
    while (left := processes_of(tmp_path / "lake")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    for port in (ui, service):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


@pytest.mark.usefixtures("quiet_signals")
def test_dagster_that_ends_by_itself_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("dicom_assets.dev.sys.executable", "false")
    with pytest.raises(DevError, match="status 1"):
        run_dev(
            Console(quiet=True),
            folder=tmp_path / "service",
            home=tmp_path / "home",
            day=Day(1, 5),
            port=free_port(),
            service_port=0,
            env={"DICOM_STORAGE_URL": str(tmp_path / "lake"), "PATH": os.environ["PATH"]},
        )
