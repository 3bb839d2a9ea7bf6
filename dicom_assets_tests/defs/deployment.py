"""The project deployed as in production: a code server, a webserver and a daemon, each a process of its own.

Beside them the embedded service, whose answers a test may change, and a receiver of alerts.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import httpx
import uvicorn
import yaml
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.http.app import create_app
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.defs.ticks import NO_OUTPUT
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import CHAIN, START, environment_of, partition_keys, range_tags, read_tables
from dicom_assets_tests.processes import PATIENCE_SECONDS, PROJECT, clean_environment, free_port

HOURS = 8
KEYS = partition_keys(HOURS)
LOCATION = "dicom_assets"
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
JOB = {**REPOSITORY, "pipelineName": "__ASSET_JOB"}
ERROR = "__typename ... on PythonError { message } ... on Error { message }"


class Held:
    """Keeps requests for an hour waiting, until the block ends or they are released."""

    def __init__(self, deployment: "Deployment", hour: str) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self.deployment, self.hour = deployment, hour

    def __enter__(self) -> "Held":
        self.deployment.answer = self.answer
        return self

    def __exit__(self, *error) -> None:
        self.released.set()

    def answer(self, request: Request) -> None:
        if self.hour in (request.query_params.get("startTime") or ""):
            self.reached.set()
            self.released.wait(PATIENCE_SECONDS)

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE_SECONDS)


class Dagster:
    """What may be done with Dagster, where it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        """The project's settings, and Dagster's home."""
        self.surroundings: dict[str, str] = {}
        """All that a process of it is given."""
        self.instance: dg.DagsterInstance
        self.ui = ""
        self.code_server: subprocess.Popen
        self.start_code_server: Callable[[], None]

    def ask(self, query: str, **variables) -> dict:
        """The one answer to a GraphQL query or mutation."""
        answer = httpx.post(f"{self.ui}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        (value,) = answer["data"].values()
        return value

    def launch_run(self, *keys: str, assets=CHAIN, tags: dict[str, str] | None = None) -> str:
        """Queues a run over an hour, or over the hours from the first to the last; gives its id."""
        both = range_tags(keys)
        hours = {"dagster/partition": keys[0]} if len(keys) == 1 else both
        params = {
            "selector": JOB | {"assetSelection": [{"path": [name]} for name in assets]},
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in hours.items()]},
        }
        return self._launch(params)

    def launch_job(self, name: str, config: dict) -> str:
        """Queues a run of a job, as from its launchpad; gives its id."""
        selector = {**REPOSITORY, "pipelineName": name}
        return self._launch({"selector": selector, "runConfigData": config, "mode": "default"})

    def _launch(self, params: dict) -> str:
        launch = "mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { ... on LaunchRunSuccess"
        answer = self.ask(launch + " { run { runId } } " + ERROR + " } }", params=params)
        assert "run" in answer, answer
        return answer["run"]["runId"]

    def reexecute(self, run_id: str, strategy: str = "FROM_FAILURE") -> str:
        params = {"parentRunId": run_id, "strategy": strategy}
        again = "mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {"
        answer = self.ask(again + " ... on LaunchRunSuccess { run { runId } } " + ERROR + " } }", params=params)
        assert "run" in answer, answer
        return answer["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        stop = "mutation($id: String!) { terminateRun(runId: $id) { " + ERROR + " } }"
        assert self.ask(stop, id=run_id)["__typename"] == "TerminateRunSuccess"

    def kill(self, run_id: str) -> None:
        """Kills the process that executes a run."""
        said = " ".join(entry.message for entry in self.instance.all_logs(run_id))
        os.kill(int(re.findall(r"\(pid: (\d+)\)", said)[-1]), signal.SIGKILL)

    def restart_code_server(self) -> None:
        """Kills it with all its runs, starts it again, and waits until the webserver has found it."""
        os.killpg(self.code_server.pid, signal.SIGKILL)
        self.code_server.wait()
        self.start_code_server()
        reload = "mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename"
        reload += " ... on WorkspaceLocationEntry { locationOrLoadError { __typename } } } }"
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while (self.ask(reload, name=LOCATION).get("locationOrLoadError") or {}).get(
            "__typename"
        ) != "RepositoryLocation":
            assert time.monotonic() < give_up_at
            time.sleep(0.5)

    def launch_backfill(self, *keys: str, assets=CHAIN) -> dict:
        """What GraphQL answers; has `backfillId` where it was accepted."""
        params = {"partitionNames": keys, "assetSelection": [{"path": [name]} for name in assets], "tags": []}
        launch = "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {"
        return self.ask(launch + " ... on LaunchBackfillSuccess { backfillId } " + ERROR + " } }", params=params)

    def backfill(self, *keys: str, assets=CHAIN) -> str:
        answer = self.launch_backfill(*keys, assets=assets)
        assert "backfillId" in answer, answer
        return answer["backfillId"]

    def cancel_backfill(self, backfill_id: str) -> None:
        cancel = "mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { " + ERROR + " } }"
        assert self.ask(cancel, id=backfill_id)["__typename"] == "CancelBackfillSuccess"

    def retry_backfill(self, backfill_id: str) -> str:
        """As the UI's "re-execute from failure" does."""
        params = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        again = "mutation($params: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $params) {"
        answer = self.ask(again + " ... on LaunchBackfillSuccess { backfillId } " + ERROR + " } }", params=params)
        assert "backfillId" in answer, answer
        return answer["backfillId"]

    def finish_backfill(self, backfill_id: str) -> str:
        """Waits for its end, and gives its status."""

        def status() -> str | None:
            found = self.instance.get_backfill(backfill_id).status.value
            return found if found.startswith(("COMPLETED", "CANCELED", "FAILED")) else None

        return wait_for(status, "the backfill to end")

    def runs_of(self, backfill_id: str) -> list[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))

    def status(self, run_id: str) -> str:
        return self.instance.get_run_by_id(run_id).status.value

    def finish(self, *run_ids: str, patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Waits until the runs have ended, and gives their statuses."""
        ended = {"SUCCESS", "FAILURE", "CANCELED"}
        wait_for(lambda: all(self.status(run) in ended for run in run_ids), "the runs to end", patience_seconds)
        return [self.status(run) for run in run_ids]

    def materialised(self, name: str) -> list[str]:
        """Hours that Dagster knows as materialised."""
        return sorted(self.instance.get_materialized_partitions(dg.AssetKey(name)))

    def spans(self, *run_ids: str) -> list[tuple[float, float, str]]:
        """Start, end and name of every step of the runs, in the order of their starts."""
        spans = []
        for run_id in run_ids:
            steps = self.instance.get_run_step_stats(run_id)
            spans += [(step.start_time, step.end_time, step.step_key) for step in steps if step.start_time]
        return sorted(spans)


class Deployment(Dagster):
    """What a test may do with it, and with the service."""

    def __init__(self, folder: Path, service: Service) -> None:
        super().__init__(folder)
        self.service, self.app = service, create_app(service)
        self.answer: Callable[[Request], Response | None] = lambda request: None
        """Asked first for every request to the service."""
        self.asked: list[str] = []
        """First hour of every request for a page, in order."""
        self.alerts: list[dict] = []

    async def __call__(self, scope, receive, send) -> None:
        """The service as an ASGI application; a test's answer may take its time without holding up others."""
        request = Request(scope, receive)
        response = await run_in_threadpool(self.intercept, request)
        await (response or self.app)(scope, receive, send)

    def intercept(self, request: Request) -> Response | None:
        if (start := request.query_params.get("startTime")) and request.query_params["offset"] == "0":
            self.asked.append(start[11:16])
        return self.answer(request)

    @property
    def lake(self) -> Lake:
        return build_lake(load_settings(self.environment))

    def check_law(self) -> None:
        assert read_tables(self.lake) == reference.fold(self.service.change_feed(limit=10**6))

    def wipe(self) -> None:
        """An empty lake, and no hour of it materialised."""
        self.answer = lambda request: None
        self.instance.wipe_assets([dg.AssetKey(name) for name in CHAIN])
        lake = Path(load_settings(self.environment).storage_url)
        if lake.exists():
            lake.rename(self.folder / f"lake-{time.monotonic_ns()}")
        self.asked.clear()
        self.alerts.clear()

    def alert_of(self, run_id: str) -> dict:
        """The alert that a run was worth, once it is there; those of earlier tests may come late."""
        return wait_for(lambda: next((a for a in self.alerts if a["run_id"] == run_id), None), "the alert")


def wait_for(condition: Callable[[], object], what: str, patience_seconds: float = PATIENCE_SECONDS):
    deadline = time.monotonic() + patience_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)
    return value


@contextmanager
def serving(app) -> Iterator[str]:
    """An ASGI application on a port of this machine; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@contextmanager
def receiving(alerts: list[dict]) -> Iterator[str]:
    """A receiver of alerts; gives its URL. Those of the hourly look at the newest hour, due or not, are left out."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alert = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if alert["steps"] != ["check_newest_hour"]:
                alerts.append(alert)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook?key=secret"
        server.shutdown()
        thread.join()


@contextmanager
def process(log: Path, env: dict[str, str], *command: str) -> Iterator[subprocess.Popen]:
    """A process that is gone afterwards, with all its children."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(5)


def prepare(folder: Path, **overrides: dict) -> Path:
    """A home of Dagster with the project's own configuration, and what the test must have quicker."""
    home = folder / "home"
    home.mkdir()
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    for section, values in overrides.items():
        config[section] = config.get(section, {}) | values
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return home


@contextmanager
def deploy(folder: Path, settings: Mapping[str, str] | None = None, **config: dict) -> Iterator[Deployment]:
    """Everything running, until the block ends.

    Args:
        folder: Where all of it is kept.
        settings: The project's, besides those that every deployment needs.
        config: Sections of dagster.yaml.
    """
    with ExitStack() as stack:
        service = stack.enter_context(Service(seed=1, file_store=folder / "files"))
        write_history(service, start=START, hours=HOURS, instances=80, seed=3)
        deployed = Deployment(folder, service)
        url = stack.enter_context(serving(deployed))
        needed = {
            **environment_of(url, HOURS),
            "DICOM_FILE_SYSTEM_URL": "/files",
            "DICOM_ALERT_WEBHOOK_URL": stack.enter_context(receiving(deployed.alerts)),
        }
        stack.enter_context(start(deployed, {**needed, **(settings or {})}, **config))
        yield deployed


@contextmanager
def start(deployed: Dagster, settings: Mapping[str, str], *, quick: bool = True, **config: dict) -> Iterator[None]:
    """Dagster's servers, until the block ends.

    Args:
        deployed: What is told of them.
        settings: The project's, besides those that say where things are here.
        quick: Retries come in a moment, and every hour is written at once; else all is as in production.
        config: Sections of dagster.yaml.
    """
    with ExitStack() as stack:
        folder = deployed.folder
        monitoring = {"poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 1}
        if quick:
            config["compute_logs"] = NO_OUTPUT
        home = prepare(folder, run_monitoring=monitoring, **config)
        code, ui = free_port(), free_port()
        deployed.ui = f"http://127.0.0.1:{ui}"
        deployed.environment = {
            "DICOM_AUTHENTICATION": "none",
            "DICOM_CATCH_UP_RUNS": "0",  # nothing runs but what a test launches
            "DICOM_SENSOR_INTERVAL_SECONDS": "0",
            "DICOM_STORAGE_URL": str(folder / "lake"),
            "DICOM_DAGSTER_URL": deployed.ui,
            "DAGSTER_HOME": str(home),
            **settings,
        }
        clean = clean_environment()
        env = clean | deployed.environment | {"DAGSTER_DISABLE_TELEMETRY": "1"}
        deployed.surroundings = env
        module = "dicom_assets_tests.defs.quick_definitions" if quick else "dicom_assets.definitions"
        place = {"grpc_server": {"host": "127.0.0.1", "port": code, "location_name": LOCATION}}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [place]}))
        where = ["-w", str(folder / "workspace.yaml")]
        api = ["-h", "127.0.0.1", "-p", str(code), "-m", module, "--location-name", LOCATION]

        def start_code_server() -> None:
            server = process(folder / "code.log", env, "dagster", "api", "grpc", *api)
            deployed.code_server = stack.enter_context(server)
            wait_for(lambda: is_open(code), "the code server")

        deployed.start_code_server = start_code_server
        start_code_server()
        deployed.instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        web = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(ui), *where]
        stack.enter_context(process(folder / "web.log", env, *web))
        stack.enter_context(process(folder / "daemon.log", env, "dicom_assets_tests.defs.quick_daemon", "run", *where))
        wait_for(lambda: is_open(ui), "the webserver")
        wait_for(lambda: deployed.instance.get_daemon_statuses().get("BACKFILL") is not None, "the daemon")
        yield


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
