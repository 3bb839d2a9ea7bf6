"""An hour of a million changes with 1 KB of metadata each, under limits of memory: `python -m bench.million --help`.

In process, without Dagster, put together as the assets and the IO manager put it together, in parts where it does not
fit. Peak memory is that of the whole process.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.check import count_rows, expected_counts, size_of
from bench.feed import CACHE, Feed, Spec, open_feed
from bench.measure import ROOT, as_json, measure, save
from bench.server import serving


def run_hour(url: str, folder: str, start: str, end: str, megabytes: str) -> None:
    """The hour into all five tables; prints what each cost."""
    from bench.ours import open_lake, parse_window, run_chain
    from dicom_assets.core.memory import MemoryLimit
    from dicom_assets.service.client import DicomService

    with DicomService(url) as client:
        costs = run_chain(client, open_lake(folder), parse_window(start, end), MemoryLimit(int(megabytes)))
    print(json.dumps({"tables": costs}))


def run_under(megabytes: int, feed: Feed, cache: Path = CACHE) -> dict[str, Any]:
    """What the hour takes under a limit."""
    with tempfile.TemporaryDirectory(dir=cache) as folder, serving(feed.folder) as url:
        arguments = [url, folder, feed.start, feed.end, str(megabytes)]
        measured = as_json(measure([sys.executable, "-m", "bench.million", "run", *arguments]))
        return {
            "limit_mb": megabytes,
            **measured,
            "tables": measured["said"]["tables"],
            "is_correct": count_rows(Path(folder)) == expected_counts(feed),
            "bytes_written": size_of(Path(folder)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="An hour of a million changes, under limits of memory.")
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--limits", type=int, nargs="+", default=[2048, 1024], help="megabytes: DICOM_MAX_MEMORY_MB")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    feed = open_feed(Spec(options.changes, brief=True))
    cases: list[dict[str, Any]] = []
    for limit in options.limits:
        case = run_under(limit, feed)
        cases.append(case)
        print(
            f"limit {limit:,} MiB: peak {case['peak_mib']:,.0f} MiB, {case['wall_seconds']:.1f} s, "
            f"{case['cpu_seconds']:.1f} CPU s{'' if case['is_correct'] else ', NOT CORRECT'}"
        )
        for name, cost in case["tables"].items():
            print(f"    {name:12} {cost['cpu_seconds']:6.1f} CPU s, {cost['commits']} commits", flush=True)
    result = {"changes": feed.changes, "bytes": feed.size_bytes, "cases": cases}
    path = save("million", result, publish=options.publish)
    print(f"Written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_hour(*sys.argv[2:7])
    else:
        main()
