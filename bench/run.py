"""An hour of the feed, by every contender in turn: `python -m bench.run --help`.

Every contender is a whole process with an empty lake; they take turns (A B C A B C …), after one round that does not
count. What is compared is the time of the work, from the first request to the last commit, as the contender itself
measures it; the whole process, imports included, is given beside it.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.check import is_correct, size_of
from bench.feed import CACHE, Feed, Spec, open_feed
from bench.measure import ROOT, Measured, as_json, measure, save, summarize
from bench.ours_dagster import environment, prepare
from bench.report import print_hour
from bench.server import serving

PEERS_PYTHON = CACHE / "peers-venv" / "bin" / "python"


@dataclass(frozen=True)
class Contender:
    """A way of reading the feed."""

    name: str
    label: str
    tables: int
    """That it keeps: 5, 1, or 0 for a mere download."""
    is_ours: bool = False

    def run(self, url: str, folder: Path, feed: Feed) -> Measured:
        """As a process of its own."""
        arguments = [url, str(folder), feed.start, feed.end]
        if self.name == "ours_command":
            prepare(str(folder))
            return measure(materialize_command(feed), environment(*arguments))
        if self.is_ours:
            return measure([sys.executable, "-m", f"bench.{self.name}", *arguments])
        script = str(ROOT / "bench" / "peers" / f"{self.name}.py")
        return measure([str(PEERS_PYTHON), script, *arguments])


CONTENDERS = (
    Contender("bare", "pages over a bare socket (what the server can give)", 0),
    Contender("download", "download with httpx, nothing else", 0),
    Contender("ours_extract", "**this project**, extraction alone", 0, is_ours=True),
    Contender("ours_inprocess", "**this project**, in process", 5, is_ours=True),
    Contender("ours_dagster", "**this project**, as a Dagster run", 5, is_ours=True),
    Contender("ours_command", "**this project**, whole `dagster asset materialize`", 5, is_ours=True),
    Contender("handwritten", "hand-written: httpx, one merge", 1),
    Contender("dlt_tuned", "dlt, tuned", 1),
    Contender("dlt_documented", "dlt, as documented", 1),
    Contender("page_by_page", "a merge per page", 1),
)


def materialize_command(feed: Feed) -> list[str]:
    """What one types to materialise the feed's only hour."""
    partition = f"{feed.start[:10]}-{feed.start[11:16]}"
    dagster = str(Path(sys.executable).parent / "dagster")
    options = ["-m", "dicom_assets.definitions", "--select", "*", "--partition", partition]
    return [dagster, "asset", "materialize", *options]


def compare(contenders: list[Contender], spec: Spec, rounds: int) -> dict[str, Any]:
    """All contenders, interleaved; the figures of each."""
    feed = open_feed(spec)
    measured: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    with serving(feed.folder) as url:
        for number in range(rounds + 1):
            for contender in contenders:
                with tempfile.TemporaryDirectory(dir=CACHE) as name:
                    folder = Path(name)
                    result = as_json(contender.run(url, folder, feed))
                    result["bytes_written"] = size_of(folder)
                    result["is_correct"] = _check(contender, folder, feed, result)
                said = result["said"].get("seconds", result["wall_seconds"])
                print(f"round {number} {contender.name}: {said:.2f} s", file=sys.stderr, flush=True)
                if number:
                    measured[contender.name].append(result)
    return {
        "changes": feed.changes,
        "bytes": feed.size_bytes,
        "rounds": rounds,
        "contenders": [describe(contender, measured[contender.name], feed) for contender in contenders],
    }


def describe(contender: Contender, results: list[dict[str, Any]], feed: Feed) -> dict[str, Any]:
    """Medians of a contender's rounds."""
    work = summarize([result["said"].get("seconds", result["wall_seconds"]) for result in results])
    said = [result["said"] for result in results]
    return {
        "name": contender.name,
        "label": contender.label,
        "tables": contender.tables,
        "is_correct": all(result["is_correct"] for result in results),
        "changes_per_second": round(feed.changes / work["median"]),
        "seconds": work,
        **{
            name: summarize([result[name] for result in results])
            for name in ("wall_seconds", "cpu_seconds", "peak_mib", "bytes_written")
        },
        **{
            name: summarize([values[name] for values in said])
            for name in ("import_seconds", "work_seconds", "orchestration_seconds")
            if name in said[0]
        },
        "tables_seconds": {
            table: summarize([values["tables"][table] for values in said])["median"]
            for table in said[0].get("tables", {})
        },
    }


def _check(contender: Contender, folder: Path, feed: Feed, result: dict[str, Any]) -> bool:
    if contender.tables:
        return is_correct(folder, feed, contender.tables)
    said = result["said"]
    return said.get("rows") == feed.changes or said.get("bytes", 0) >= feed.size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="An hour of the feed, by every contender in turn.")
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more goes before")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    chosen = [contender for contender in CONTENDERS if not options.only or contender.name in options.only]
    result = compare(chosen, Spec(options.changes, seed=options.seed), options.rounds)
    path = save("hour", result, publish=options.publish)
    print_hour(result)
    print(f"\nWritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
