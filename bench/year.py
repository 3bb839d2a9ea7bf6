"""A year of hours as range runs of Dagster, against Dagster recording as many empty partitions of the same assets.

python -m bench.year --hours 8760 --changes 1000000 --hours-per-run 730

Both are the project's own definitions and `dagster.yaml`; the empty one's IO manager stores nothing, so that nothing is
read either, and its assets have no checks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench.check import count_rows, expected_counts, size_of
from bench.feed import CACHE, Spec, open_feed
from bench.measure import ROOT, save
from bench.server import serving


def run_year(  # noqa: PLR0917 - the command line, as it is
    url: str, folder: str, start: str, end: str, hours_per_run: str, empty: str
) -> None:
    """Range runs one after the other; prints what each cost."""
    import dagster as dg

    from bench.ours_dagster import environment, prepare, run_range, time_stores

    home = prepare(folder)
    os.environ.update(environment(url, folder, start, end))
    if empty == "empty":
        from dicom_assets.defs.assets.io_manager import DeltaIOManager

        DeltaIOManager.handle_output = lambda *_: None
    work = time_stores()
    from dicom_assets.definitions import defs

    if empty == "empty":
        resources = defs.resources
        defs = dg.Definitions(assets=defs.assets, resources=resources, executor=defs.executor)
    job = defs.resolve_implicit_global_asset_job_def()
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        while first < last:
            until = min(first + timedelta(hours=int(hours_per_run)), last)
            before, began, cpu = sum(work.values()), time.perf_counter(), time.process_time()
            run = run_range(job, instance, first, until)
            cost = {
                "hours": (until - first) // timedelta(hours=1),
                "seconds": round(time.perf_counter() - began, 3),
                "start_to_success_seconds": round(run["seconds"], 3),
                "work_seconds": round(sum(work.values()) - before, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
                "memory_mib": round(_resident_mib()),
            }
            print(json.dumps(cost), flush=True)
            first = until


def _resident_mib() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="A year of hours as range runs of Dagster, and an empty year.")
    parser.add_argument("--hours", type=int, default=8760)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--hours-per-run", type=int, default=730)
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    feed = open_feed(Spec(options.changes, options.hours))
    result: dict[str, Any] = {
        "hours": options.hours,
        "changes": options.changes,
        "hours_per_run": options.hours_per_run,
    }
    for kind in ("empty", "full"):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder, serving(feed.folder) as url:
            command = [sys.executable, "-m", "bench.year", "run", url, folder, feed.start, feed.end]
            command += [str(options.hours_per_run), kind]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            costs = [json.loads(line) for line in done.stdout.splitlines()]
            result[kind] = {
                **{
                    name: round(sum(cost[name] for cost in costs), 2)
                    for name in ("seconds", "start_to_success_seconds", "work_seconds", "cpu_seconds")
                },
                "history_bytes": size_of(Path(folder) / "dagster"),
                "runs": costs,
            }
            if kind == "full":
                lake = Path(folder) / "lake"
                result["is_correct"] = count_rows(lake) == expected_counts(feed)
                result["lake_bytes"] = size_of(lake)
        print(f"{kind}: { ({name: value for name, value in result[kind].items() if name != 'runs'}) }", flush=True)
    result["ratio"] = round(result["full"]["seconds"] / result["empty"]["seconds"], 3)
    path = save("year", result, publish=options.publish)
    print(f"full / empty: {result['ratio']}; correct: {result['is_correct']}")
    print(f"Written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_year(*sys.argv[2:8])
    else:
        main()
