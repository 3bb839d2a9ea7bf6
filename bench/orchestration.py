"""What Dagster adds to the work: imports, the chain of five assets, and a run from its launch through the queue.

python -m bench.orchestration --rounds 3

Runs are launched and timed as the UI does it, over GraphQL, and by Dagster's own record of them; the servers of both
executors run side by side and take turns. Importing is a process of its own each time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench.feed import CACHE, Feed, Spec, open_feed
from bench.measure import ROOT, measure, save, summarize
from bench.ours_dagster import environment, prepare
from bench.server import serving
from dicom_assets_tests.processes import free_port

EXECUTORS = ("in_process", "multiprocess")
OURS = "import dicom_assets.definitions"
IMPORTS = {
    "dagster": "import dagster",
    "dicom_assets.definitions": f"import sys; sys.modules['numpy'] = None; {OURS}",
    "dicom_assets.definitions with numpy": OURS,
}
"""What is timed. The project does not depend on numpy, but Arrow loads it where developers' tools have brought it."""
_PATIENCE_SECONDS = 300
_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { id } } }
}
"""
_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status creationTime startTime endTime } } }"

Query = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Asks GraphQL a document with variables."""


def measure_imports(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds to start Python and import something, in turns; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds + 1):
        for name, code in IMPORTS.items():
            seconds[name].append(measure([sys.executable, "-c", code]).wall_seconds)
    return {name: summarize(values[1:]) for name, values in seconds.items()}


def slowest_imports(count: int = 12) -> dict[str, float]:
    """Milliseconds that the modules of each package cost by themselves, of the packages that cost most."""
    command = [sys.executable, "-X", "importtime", "-c", IMPORTS["dicom_assets.definitions"]]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    packages: dict[str, float] = {}
    for line in said.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            package = name.strip().split(".")[0]
            packages[package] = packages.get(package, 0) + int(own) / 1000
    return {name: round(packages[name], 1) for name in sorted(packages, key=packages.__getitem__, reverse=True)[:count]}


def measure_chain(url: str, feed: Feed, rounds: int) -> dict[str, dict[str, float]]:
    """An hour in a process of its own: from the run's start to its success, and what of it was not the work."""
    said = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            end = (datetime.fromisoformat(feed.start) + timedelta(hours=1)).isoformat()
            said.append(measure([sys.executable, "-m", "bench.ours_dagster", url, folder, feed.start, end]).said)
    return {
        name: summarize([one[name] for one in said[1:]])
        for name in ("seconds", "work_seconds", "orchestration_seconds", "with_run_creation_seconds")
    }


@contextmanager
def serving_dagster(executor: str, url: str, folder: Path, feed: Feed) -> Iterator[Query]:
    """Dagster's webserver and daemon with an executor, until the block ends."""
    port = free_port()
    prepare(str(folder))
    env = {**os.environ, **environment(url, str(folder), feed.start, feed.end), "BENCH_EXECUTOR": executor}
    command = [sys.executable, "-m", "dagster", "dev", "-m", "bench.executors", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def query(document: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": document, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    try:
        _wait_for(lambda: _answers(query), f"Dagster in {folder}")
        yield query
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_SECONDS)


def launch(query: Query, hour: datetime) -> dict[str, float]:
    """A run of all assets for an hour: seconds from its launch to its start, and to its success."""
    params = {
        "selector": {
            "repositoryLocationName": "bench.executors",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
        },
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": f"{hour:%Y-%m-%d-%H:%M}"}]},
    }
    launched = query(_LAUNCH, {"params": params})["launchRun"]
    if "run" not in launched:
        raise SystemExit(f"Dagster did not launch the run: {launched['__typename']}.")

    def ended() -> dict[str, Any] | None:
        run = query(_RUN, {"id": launched["run"]["id"]})["runOrError"]
        return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    run = _wait_for(ended, "the run")
    if run["status"] != "SUCCESS":
        raise SystemExit("A run failed: one launched by hand, under `dagster dev -m bench.executors`, shows why.")
    return {
        "until_start_seconds": run["startTime"] - run["creationTime"],
        "run_seconds": run["endTime"] - run["startTime"],
        "launch_to_success_seconds": run["endTime"] - run["creationTime"],
    }


def measure_launches(url: str, feed: Feed, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Runs of both executors in turns, an hour each; the first round does not count."""
    runs: dict[str, list[dict[str, float]]] = {executor: [] for executor in EXECUTORS}
    with ExitStack() as stack:
        queries = {}
        for executor in EXECUTORS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE)))
            queries[executor] = stack.enter_context(serving_dagster(executor, url, folder, feed))
        for number in range(rounds + 1):
            hour = datetime.fromisoformat(feed.start) + timedelta(hours=number)
            for executor in EXECUTORS:
                runs[executor].append(launch(queries[executor], hour))
                seconds = runs[executor][-1]["launch_to_success_seconds"]
                print(f"round {number} {executor}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return {
        executor: {name: summarize([run[name] for run in measured[1:]]) for name in measured[0]}
        for executor, measured in runs.items()
    }


def _answers(query: Query) -> bool:
    with suppress(OSError):
        return bool(query("{ assetNodes { id } }", {})["assetNodes"])
    return False


def _wait_for(ask: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise SystemExit(f"In vain waited {_PATIENCE_SECONDS} s for {what}.")
        time.sleep(0.1)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description="What Dagster adds to the work.")
    parser.add_argument("--changes-per-hour", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more goes before")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    # A shell that starts this in the background has SIGINT ignored, and Dagster would inherit that and never stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hours = options.rounds + 1
    feed = open_feed(Spec(options.changes_per_hour * hours, hours))
    imports = measure_imports(2 * options.rounds + 1)
    with serving(feed.folder) as url:
        result: dict[str, Any] = {
            "changes_per_hour": options.changes_per_hour,
            "rounds": options.rounds,
            "imports": imports,
            "import_ratio": round(imports["dicom_assets.definitions"]["median"] / imports["dagster"]["median"], 3),
            "slowest_imports_milliseconds": slowest_imports(),
            "chain": measure_chain(url, feed, options.rounds),
            "launches": measure_launches(url, feed, options.rounds),
        }
    path = save("orchestration", result, publish=options.publish)
    print(json.dumps(result, indent=1))
    print(f"Written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
