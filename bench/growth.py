"""The same hour into tables of more and more rows: `python -m bench.growth --rows 100000 1000000 5000000`.

17,500 inserts (250 new studies), 2,000 updates and 500 deletes, into all five tables, in a process of its own. Updates
and deletes are those of whole studies and series of the last hours, or of single instances all over the history.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.check import count_rows, expected_counts
from bench.feed import CACHE, Feed, Spec, open_feed
from bench.history import STUDY_SIZE, build_history, whole_hours
from bench.measure import ROOT, as_json, measure, save, summarize
from bench.server import serving

_WRITERS = (
    "bench/feed.py",
    "bench/history.py",
    "dicom_assets/lake/files/folder.py",
    "dicom_assets/lake/files/parquet.py",
    "dicom_assets/core/columns/schema.py",
)
"""What decides about the files of a lake in the cache."""


def open_history(rows: int) -> Path:
    """The lake with so many instances, made if it is not in the cache."""
    written_by = b"".join((ROOT / name).read_bytes() for name in _WRITERS)
    folder = CACHE / "lakes" / f"{rows}-{sha256(written_by).hexdigest()[:8]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        subprocess.run(["rm", "-rf", str(partial)], check=True)
        partial.mkdir(parents=True)
        build_history(partial, rows)
        partial.rename(folder)
    return folder


def spec_of(rows: int, changes: int, *, scattered: bool) -> Spec:
    return Spec(changes, delete_share=0.025, study_size=STUDY_SIZE, history=rows, scattered=scattered)


def copy_history(rows: int, lake: Path) -> None:
    """A copy of the lake, whose data files are links, since none is ever changed; of the log's, Spark changes one."""
    subprocess.run(["cp", "-al", str(open_history(rows)), str(lake)], check=True)
    for log in lake.glob("*/_delta_log"):
        shutil.copytree(log, log.with_suffix(".copy"))
        shutil.rmtree(log)
        log.with_suffix(".copy").rename(log)


def run_hour(rows: int, feed: Feed) -> dict[str, Any]:
    """The hour into a copy of the lake."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name, serving(feed.folder) as url:
        lake = Path(name) / "tables"
        copy_history(rows, lake)
        measured = measure([sys.executable, "-m", "bench.ours_inprocess", url, str(lake), feed.start, feed.end])
        counts = count_rows(lake)
    return {**as_json(measured), "is_correct": counts == expected_counts(feed)}


def main() -> None:
    parser = argparse.ArgumentParser(description="The same hour into tables of more and more rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument(
        "--scattered", type=int, nargs="*", default=[100_000, 1_000_000], help="rows, of the worst case"
    )
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    cases = [(whole_hours(rows), False) for rows in options.rows]
    cases += [(whole_hours(rows), True) for rows in options.scattered]
    feeds = {case: open_feed(spec_of(case[0], options.changes, scattered=case[1])) for case in cases}
    runs: dict[tuple[int, bool], list[dict[str, Any]]] = {case: [] for case in cases}
    for rows, _ in cases:
        open_history(rows)
    for number in range(options.rounds + 1):
        for case in cases:
            result = run_hour(case[0], feeds[case])
            print(
                f"round {number}, {case[0]:,} rows{', scattered' if case[1] else ''}: "
                f"{result['cpu_seconds']:.2f} CPU s, {result['said']['seconds']:.2f} s, {result['peak_mib']:.0f} MiB"
                f"{'' if result['is_correct'] else ', NOT CORRECT'}",
                flush=True,
            )
            if number:
                runs[case].append(result)
    rows = [
        {
            "rows": rows,
            "scattered": scattered,
            "is_correct": all(result["is_correct"] for result in results),
            "seconds": summarize([result["said"]["seconds"] for result in results]),
            **{
                name: summarize([result[name] for result in results])
                for name in ("wall_seconds", "cpu_seconds", "peak_mib")
            },
            "tables_seconds": {
                table: summarize([result["said"]["tables"][table] for result in results])["median"]
                for table in results[0]["said"]["tables"]
            },
        }
        for (rows, scattered), results in runs.items()
    ]
    path = save(
        "growth", {"changes": options.changes, "rounds": options.rounds, "cases": rows}, publish=options.publish
    )
    print(f"\nWritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
