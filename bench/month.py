"""Thirty days of hourly commits with daily upkeep, in one process: does an hour cost more at the end?

python -m bench.month --days 30 --changes-per-hour 1000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from bench.check import count_rows, expected_counts, size_of
from bench.feed import CACHE, Spec, open_feed
from bench.measure import ROOT, save
from bench.server import serving

_DAY = 24


def run_hours(url: str, folder: str, start: str, end: str) -> None:
    """The hours one by one, and the upkeep after every day; prints what each cost."""
    from bench.ours import open_lake, run_chain
    from dicom_assets.core.columns.schema import TABLES
    from dicom_assets.core.tables.change_feed import Window
    from dicom_assets.lake.upkeep import maintain
    from dicom_assets.service.client import DicomService

    def cost_of(work: Callable[[], object]) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return {
            "seconds": round(time.perf_counter() - wall, 4),
            "cpu_seconds": round(time.process_time() - cpu, 4),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }

    with DicomService(url) as client:
        # A lake of its own for every hour: what an hourly run of Dagster starts from.
        window = Window(datetime.fromisoformat(start), datetime.fromisoformat(end))
        for number, hour in enumerate(window.hours(), 1):
            cost = {"hour": cost_of(lambda hour=hour: run_chain(client, open_lake(folder), hour))}
            if number % _DAY == 0:
                cost["upkeep"] = cost_of(lambda: [maintain(open_lake(folder), table) for table in TABLES])
            print(json.dumps(cost), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Days of hourly commits, one after the other.")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--changes-per-hour", type=int, default=1000)
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    hours = options.days * _DAY
    feed = open_feed(Spec(options.changes_per_hour * hours, hours))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, serving(feed.folder) as url:
        command = [sys.executable, "-m", "bench.month", "run", url, folder, feed.start, feed.end]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        costs, upkeep = [line["hour"] for line in lines], [line["upkeep"] for line in lines if "upkeep" in line]
        is_correct = count_rows(Path(folder)) == expected_counts(feed)
        size = size_of(Path(folder))
    result: dict[str, Any] = {
        "days": options.days,
        "changes_per_hour": options.changes_per_hour,
        "is_correct": is_correct,
        "bytes_written": size,
        "first_day": _describe(costs[:_DAY]),
        "last_day": _describe(costs[-_DAY:]),
        "days_upkeep_seconds": [cost["seconds"] for cost in upkeep],
        "days_seconds": [_describe(costs[first : first + _DAY])["seconds"] for first in range(0, hours, _DAY)],
        "days_cpu_seconds": [_describe(costs[first : first + _DAY])["cpu_seconds"] for first in range(0, hours, _DAY)],
        "days_peak_mib": [costs[first + _DAY - 1]["peak_mib"] for first in range(0, hours, _DAY)],
    }
    path = save("month", result, publish=options.publish)
    for name in ("first_day", "last_day"):
        print(f"{name}: {result[name]}")
    print(f"correct: {is_correct}; {timedelta(seconds=sum(cost['seconds'] for cost in costs))} in all")
    print(f"Written to {path.relative_to(ROOT)}")


def _describe(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(cost[name] for cost in costs), 4) for name in ("seconds", "cpu_seconds")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_hours(*sys.argv[2:6])
    else:
        main()
