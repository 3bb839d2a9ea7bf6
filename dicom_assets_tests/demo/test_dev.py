"""`make dev`: it starts, keeps changing, and stops without leaving anything behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from dicom_assets.demo.dagster_server import DagsterServer, DagsterServerError
from dicom_assets.demo.dev import DevError, run_dev
from dicom_assets.demo.embedded import ForeignTablesError, open_service
from dicom_assets_tests.processes import COMMAND, PATIENCE_SECONDS, clean_environment, free_port

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="needs /proc to see that no process is left"
)

ASSETS = ("change_feed", "instance", "series", "study", "file_index")


@pytest.fixture
def dev(tmp_path):
    """Runs it in this process."""

    def run(**options):
        defaults = {
            "folder": tmp_path,
            "now": datetime.now(UTC),
            "hours": 1,
            "instances": 5,
            "per_minute": 0,
            "port": free_port(),
            "service_port": 0,
            "env": {"PATH": os.environ["PATH"]},
        }
        run_dev(Console(quiet=True), **{**defaults, **options})

    return run


@pytest.mark.parametrize("option", ["port", "service_port"])
def test_taken_port_is_named_with_the_way_out(dev, option):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        expected = rf"Port {taken},.* `make dev ARGS=\"--{option.replace('_', '-')} \d+\"`"
        with pytest.raises(DevError, match=expected):
            dev(**{option: taken})


def test_dagster_that_ends_by_itself_is_an_error_with_its_last_words(dev, monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such thing\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("dicom_assets.demo.dagster_server.sys.executable", str(broken))
    with pytest.raises(DagsterServerError, match=r"(?s)status 3.*dagster\.log:\nno such thing"):
        dev()


def test_last_words_are_not_those_of_runs(dev, monkeypatch, tmp_path):
    event = "2026-03-01 05:00:00 +0000 - dagster - DEBUG - hours - 1a2b - study - STEP_OUTPUT - Yielded"
    talkative = pretend_to_be_dagster(tmp_path, f"print('no such module'); [print({event!r}) for _ in range(100)]")
    monkeypatch.setattr("dicom_assets.demo.dagster_server.sys.executable", talkative)
    with pytest.raises(DagsterServerError, match=r"dagster\.log:\nno such module$"):
        dev()


def pretend_to_be_dagster(tmp_path, code: str) -> str:
    """A program that is started in place of Dagster."""
    program = tmp_path / "pretender"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    return str(program)


LEAVES_A_RUN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = os.environ["DAGSTER_HOME"]
if os.fork():
    while not os.path.exists(folder + "/began"):
        time.sleep(0.01)
    sys.exit()
try:
    open(folder + "/began", "w").close()
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.5)
    open(folder + "/ended", "w").close()
"""


def test_a_run_that_dagster_leaves_behind_is_interrupted_and_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "dicom_assets.demo.dagster_server.sys.executable", pretend_to_be_dagster(tmp_path, LEAVES_A_RUN)
    )
    with (
        DagsterServer({"DAGSTER_HOME": str(tmp_path)}, 1, tmp_path / "log") as server,
        pytest.raises(DagsterServerError),
    ):
        server.wait()
    assert (tmp_path / "ended").exists(), (tmp_path / "log").read_text()


def test_new_service_refuses_the_tables_of_another(dev, monkeypatch, tmp_path):
    monkeypatch.setattr("dicom_assets.demo.dagster_server.sys.executable", "false")
    lake = tmp_path / "lake"
    env = {"DICOM_STORAGE_URL": str(lake)}
    with pytest.raises(DagsterServerError):
        dev(env=env)
    (tmp_path / "service").rename(tmp_path / "elsewhere")
    table = lake / "dicom" / "change_feed"
    fill_table(table)
    with pytest.raises(ForeignTablesError, match="did not fill"):
        dev(env=env)


def fill_table(path):
    from dicom_assets.core.columns.schema import CHANGE_FEED, TABLES
    from dicom_assets.lake.storage.storage import Storage
    from dicom_assets.lake.table.delta import Lake

    Lake(Storage(str(path.parent)), {table.name: table.name for table in TABLES}).open_or_create(CHANGE_FEED)


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


@contextmanager
def running(tmp_path, stop, *options):
    """`dicom-assets dev` in a process of its own; afterwards it must have stopped well, and left nothing."""
    ui, service = free_port(), free_port()
    command = [*COMMAND, "dev", "--port", str(ui), "--service-port", str(service)]
    command += ["--folder", str(tmp_path / "dev"), "--instances", "20", *options]
    env = clean_environment()
    log = tmp_path / "log"
    with log.open("wb") as output:
        dev = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield dev, log, f"http://127.0.0.1:{ui}", f"http://127.0.0.1:{service}"
        dev.send_signal(stop)
        assert dev.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        dev.kill()
    assert log.read_text().endswith("Stopped.\n")
    assert "Traceback" not in log.read_text()
    assert processes_of(tmp_path / "dev") == []
    for port in (ui, service):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def wait_for(holds, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.2)


def filled_hours(ui):
    """The number of hours that are materialised, by asset."""
    query = "{ assetNodes { assetKey { path } partitionStats { numMaterialized } } }"
    nodes = httpx.post(f"{ui}/graphql", json={"query": query}, timeout=PATIENCE_SECONDS).json()["data"]["assetNodes"]
    return {node["assetKey"]["path"][-1]: node["partitionStats"]["numMaterialized"] for node in nodes}


@pytest.mark.deep
@needs_proc
def test_hours_turn_green_until_it_is_stopped(tmp_path):
    with running(tmp_path, signal.SIGTERM, "--hours", "2", "--per-minute", "600") as (dev, log, ui, service):
        wait_for(lambda: "Ctrl-C stops" in log.read_text() or dev.poll() is not None, "the UI")
        assert httpx.get(f"{ui}/server_info", timeout=PATIENCE_SECONDS).json()["dagster_version"], log.read_text()

        def latest():
            return httpx.get(f"{service}/v2/changefeed/latest", params={"includeMetadata": "false"}).json()["sequence"]

        before = latest()
        wait_for(lambda: latest() > before, "a change")
        wait_for(lambda: " study stored, " in log.read_text(), "a line about it")
        # Two hours that have closed, and the one that is open.
        wait_for(lambda: all(filled_hours(ui).get(name, 0) >= 3 for name in ASSETS), "three green hours")


@needs_proc
def test_dev_stops_on_ctrl_c_while_it_starts(tmp_path):
    with running(tmp_path, signal.SIGINT, "--hours", "1") as (_, log, _, _):
        wait_for((tmp_path / "dev" / "dagster" / "dagster.log").exists, log)
        wait_for(lambda: len(processes_of(tmp_path / "dev")) > 1, "a process of Dagster")


@needs_proc
def test_dev_that_was_stopped_goes_on_where_it_was(dev, monkeypatch, tmp_path):
    monkeypatch.setattr("dicom_assets.demo.dagster_server.sys.executable", "false")
    counts = []
    for _ in range(2):
        with pytest.raises(DagsterServerError):
            dev()
        with open_service(tmp_path / "service") as service:
            counts.append(service.change_count())
    assert counts[0] == counts[1] > 0
