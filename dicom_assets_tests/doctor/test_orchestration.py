"""Dagster: a home, a history, a pool, and daemons; in a real instance, with a real daemon."""

import signal
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster import DagsterInstance

from dicom_assets.core.finding import Status
from dicom_assets.defs.naming import PLAIN
from dicom_assets_tests.processes import PATIENCE_SECONDS, clean_environment


@pytest.mark.parametrize(
    ("home", "status", "told"),
    [
        (None, Status.RED, "DAGSTER_HOME is not set"),
        ("relative", Status.RED, "no absolute path"),
        ("/nowhere/at/all", Status.RED, "is no folder"),
    ],
)
def test_home_that_cannot_be_used_is_red(ward, home, status, told):
    ward.env.pop("DAGSTER_HOME")
    if home:
        ward.env["DAGSTER_HOME"] = home
    found = ward.examine("dagster")
    assert found["dagster.home"].status is status
    assert told in found["dagster.home"].found
    assert {found[f"dagster.{name}"].status for name in ("storage", "pool", "daemons")} == {Status.SKIPPED}


def test_home_without_the_projects_file_lets_any_number_write(ward):
    (ward.folder / "home" / "dagster.yaml").unlink()
    found = ward.examine("dagster.home", "dagster.pool")
    assert found["dagster.home"].status is Status.YELLOW
    assert found["dagster.pool"].status is Status.YELLOW
    assert "lets any number steps write" in found["dagster.pool"].found


def test_other_limit_of_the_pool_is_yellow(ward):
    with DagsterInstance.from_config(ward.env["DAGSTER_HOME"]) as instance:
        instance.event_log_storage.set_concurrency_slots(PLAIN.pool, 3)
    finding = ward.examine("dagster.pool")["dagster.pool"]
    assert finding.status is Status.YELLOW
    assert finding.facts == {"limit": 3, "granularity": "op"}
    assert "op, default_limit: 1" in finding.remedy


def test_history_that_cannot_be_reached_is_red_without_its_password(ward):
    (ward.folder / "home" / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url: postgresql://u:hidden-password@127.0.0.1:1/d\n"
    )
    finding = ward.examine("dagster.storage")["dagster.storage"]
    assert finding.status is Status.RED
    assert "hidden-password" not in repr(finding)
    assert "`dagster instance info`" in finding.remedy


def test_broken_file_is_red(ward):
    (ward.folder / "home" / "dagster.yaml").write_text("nonsense: true\n")
    assert ward.statuses("dagster.storage")["dagster.storage"] == "red"


def test_daemon_that_runs_is_green_and_one_that_died_is_red(ward, monkeypatch):
    env = clean_environment(**ward.env, DAGSTER_DISABLE_TELEMETRY="1")
    log = ward.folder / "daemon.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "dagster._daemon", "run", "--empty-workspace"]
        daemon = subprocess.Popen(command, cwd=ward.folder, env=env, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (finding := ward.examine("dagster.daemons")["dagster.daemons"]).status is not Status.GREEN:
            assert time.monotonic() < deadline, finding
            assert daemon.poll() is None, log.read_text()
            time.sleep(0.5)
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.wait(PATIENCE_SECONDS)
    assert "daemons are alive" in finding.found
    later = time.time() + 86400
    monkeypatch.setattr("dagster._daemon.controller.get_current_timestamp", lambda: later)
    finding = ward.examine("dagster.daemons")["dagster.daemons"]
    assert finding.status is Status.RED
    assert "gave no sign of life: ASSET, BACKFILL" in finding.found
    assert finding.facts["scheduler"] is False


def test_instance_that_is_given_is_used(ward, tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        found = ward.examine("dagster", instance=instance)
    assert found["dagster.home"].status is Status.GREEN
    assert found["dagster.storage"].status is Status.GREEN
