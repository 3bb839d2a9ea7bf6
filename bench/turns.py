"""Two checkouts of the project in turns: what a change costs. `python -m bench.turns --help`.

Each run is a whole process with an empty lake, in the same Python environment; the checkouts take turns (A B A B …),
after one round that does not count. The ratio is taken of the medians, and of each pair.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.check import is_correct
from bench.feed import CACHE, Feed, Spec, open_feed
from bench.measure import ROOT, Measured, commit_of, measure, save, summarize
from bench.server import serving

FIGURES = ("seconds", "cpu_seconds", "peak_mib")


def run_hour(checkout: Path, url: str, feed: Feed, folder: Path) -> Measured:
    """Bring an hour of the feed into the five tables, in process, by a checkout's code."""
    arguments = [url, str(folder), feed.start, feed.end]
    command = [sys.executable, "-m", "bench.ours_inprocess", *arguments]
    return measure(command, {"PYTHONPATH": str(checkout)}, cwd=checkout)


def run_month(checkout: Path, days: int) -> Measured:
    """Bring days of small hours into the five tables, in process, by a checkout's code."""
    command = [sys.executable, "-m", "bench.month", "--days", str(days), "--changes-per-hour", "200"]
    return measure(command, {"PYTHONPATH": str(checkout)}, cwd=checkout)


def compare(other: Path, spec: Spec, rounds: int, days: int) -> dict[str, Any]:
    """Return the figures of this checkout and of another one, and their ratios."""
    feed = open_feed(spec)
    found: dict[str, dict[str, list[Measured]]] = {case: {"this": [], "other": []} for case in ("hour", "month")}
    with serving(feed.folder) as url:
        for number in range(rounds + 1):
            for name, checkout in (("this", ROOT), ("other", other)):
                with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                    hour = run_hour(checkout, url, feed, Path(folder))
                    if not is_correct(Path(folder), feed, 5):
                        raise SystemExit(f"The tables of {checkout} are not those of the feed.")
                month = run_month(checkout, days) if days else None
                if number:
                    found["hour"][name].append(hour)
                    found["month"][name] += [month] if month else []
                print(f"round {number} {name}: {hour.cpu_seconds:.2f} s CPU", file=sys.stderr, flush=True)
    return {
        "changes": feed.changes,
        "rounds": rounds,
        "days": days,
        "other": commit_of(other),
        "cases": {case: describe(each) for case, each in found.items() if each["this"]},
    }


def describe(measured: dict[str, list[Measured]]) -> dict[str, Any]:
    """Return medians of both, and the ratio of this checkout's to the other's."""

    def figure(result: Measured, name: str) -> float:
        return float(result.said.get(name, result.wall_seconds) if name == "seconds" else getattr(result, name))

    described: dict[str, Any] = {}
    for name in FIGURES:
        this, other = ([figure(result, name) for result in measured[who]] for who in ("this", "other"))
        pairs = [one / two for one, two in zip(this, other, strict=True)]
        described[name] = {
            "this": summarize(this),
            "other": summarize(other),
            "ratio": round(median(this) / median(other), 3),
            "ratio_of_pairs": summarize(pairs),
        }
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description="This checkout and another one in turns.")
    parser.add_argument("other", type=Path, help="folder of the other checkout, such as a git worktree")
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more goes before")
    parser.add_argument("--days", type=int, default=0, help="days of small hours, too")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    result = compare(options.other.resolve(), Spec(options.changes, seed=1), options.rounds, options.days)
    path = save("turns", result, publish=options.publish)
    for case, figures in result["cases"].items():
        for name, values in figures.items():
            print(f"{case} {name}: {values['this']['median']} and {values['other']['median']}, ratio {values['ratio']}")
    print(f"\nWritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
