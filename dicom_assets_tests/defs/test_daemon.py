"""The sensors in Dagster's own daemon, with the project's `dagster.yaml` and no webserver; also when it is killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.naming import PLAIN
from dicom_assets.defs.partitions import floor_hour, partition_key
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.defs.ticks import hours_of
from dicom_assets_tests.law.world import CHAIN

ROOT = Path(__file__).parents[2]
COUNT = 2
HOURS = dg.RunsFilter(job_name=PLAIN.hours_job)
"""Not the runs of the schedules, one of which may be due at this minute."""
PATIENCE_SECONDS = 600
"""The daemon takes 10 s to start, and a tick comes every 30 s; on a busy machine it is several times that."""


@contextmanager
def daemon(env: dict[str, str], log: Path, module: str = "dagster._daemon"):
    """Dagster's daemon with a code server of its own; everything of it is killed at the end."""
    command = [sys.executable, "-m", module, "run", "-m", "dicom_assets.definitions"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(process, condition, what) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, what()
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture
def home(tmp_path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder)
    return folder


def test_daemon_killed_while_it_asks_for_runs_neither_loses_nor_doubles_an_hour(home, tmp_path):
    first = floor_hour(datetime.now(UTC) - timedelta(minutes=15)) - COUNT * HOUR
    keys = [partition_key(first + number * HOUR) for number in range(COUNT)]
    log = tmp_path / "log"
    with Service(seed=1) as service, serve(service) as url, dg.DagsterInstance.from_config(str(home)) as instance:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DICOM_", "DAGSTER_"))}
        env = kept | {
            "DAGSTER_HOME": str(home),
            "DICOM_SERVICE_URL": url,
            "DICOM_AUTHENTICATION": "none",
            "DICOM_START_TIME": first.isoformat(),
            "DICOM_END_TIME": (first + COUNT * HOUR).isoformat(),
            "DICOM_STORAGE_URL": str(tmp_path / "lake"),
            "DICOM_CATCH_UP_HOURS_PER_RUN": "1",
        }
        with daemon(env, log, "dicom_assets_tests.defs.dying_daemon") as process:
            assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, log.read_text()
        assert instance.get_runs_count(HOURS) == 1
        interrupted = next(tick for tick in ticks(instance) if tick.status.name == "STARTED" and tick.run_requests)
        assert interrupted.unsubmitted_run_ids_with_requests
        with daemon(env, log) as process:
            wait_until(process, lambda: ended(instance) == COUNT, log.read_text)
        runs = instance.get_runs(HOURS)
        assert all(run.status is dg.DagsterRunStatus.SUCCESS for run in runs), log.read_text()
        assert sorted(hours_of(run.tags) for run in runs) == [[key] for key in keys]
        for name in CHAIN:
            records = instance.fetch_materializations(dg.AssetKey(name), limit=100).records
            assert Counter(record.partition_key for record in records) == dict.fromkeys(keys, 1)
        assert {tick.instigator_name for tick in ticks(instance)} == {"catch_up", "change_feed_sensor"}
        assert not [tick for tick in ticks(instance) if tick.status.name == "FAILURE"], log.read_text()


def ticks(instance) -> list:
    """Of the sensors."""
    states = [state for state in instance.all_instigator_state() if state.instigator_type.name == "SENSOR"]
    return [tick for state in states for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)]


def ended(instance) -> int:
    """Runs that ended."""
    statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return instance.get_runs_count(dg.RunsFilter(job_name=PLAIN.hours_job, statuses=statuses))
