"""The same hour merged by delta-rs and by Spark, into tables of more and more rows: when does Spark pay?

python -m bench.engines --rows 100000 1000000 5000000 --scattered 100000 1000000

The hours and lakes of `bench/growth.py`. Spark is Apache Spark with Delta's jars (`make spark`): one server for all
runs, on this machine's cores, which has started and has run every case once before anything counts. The engines take
turns, each with a copy of the lake, and must come to the same rows. Spark's CPU and memory are those of its server's
processes; the run's own come on top.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.check import count_rows, digest_tables, expected_counts
from bench.feed import CACHE, Feed, open_feed
from bench.growth import copy_history, open_history, spec_of, whole_hours
from bench.measure import PUBLISHED, ROOT, measure, save, summarize, this_command
from bench.server import serving
from dicom_assets.core.errors import EngineUnavailableError
from dicom_assets.lake.spark.session import Spark
from dicom_assets_tests.spark.fetch import DELTA_VERSION, SPARK_VERSION
from dicom_assets_tests.spark.server import PATIENCE_SECONDS, share_process, spark_command

ENGINES = ("delta-rs", "spark")
FIGURES = ("seconds", "cpu_seconds", "peak_mib", "spark_cpu_seconds", "spark_peak_mib")


@dataclass(frozen=True)
class Server:
    """A Spark Connect server, all of whose processes work in one folder."""

    remote: str
    folder: Path

    def cpu_seconds(self) -> float:
        """Of all its processes so far, those that have ended included."""
        ticks = 0
        for process in self._processes():
            fields = (process / "stat").read_text().rpartition(") ")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        for process in self._processes():
            (process / "clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Resident memory since it was last forgotten."""
        lines = [line for process in self._processes() for line in (process / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def _processes(self) -> list[Path]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == self.folder:
                    found.append(process)
            except OSError:  # it has ended, or is another's
                continue
        return found


@contextmanager
def serve_spark(memory: str) -> Iterator[Server]:
    """Spark as it is for servers that live long, until the block ends."""
    with TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name).resolve()
        options = ["--driver-memory", memory, "--conf", f"spark.driver.extraJavaOptions=-Djava.io.tmpdir={folder}"]
        options += ["--conf", f"spark.sql.shuffle.partitions={os.cpu_count()}"]
        *command, flag, main_class, program = spark_command(folder, master="local[*]")
        with share_process(folder, [*command, *options, flag, main_class, program]) as address:
            server = Server(f"sc://{address}", folder)
            _await_answer(server.remote)
            yield server


def _await_answer(remote: str) -> None:
    """The first takes a cold server long, on a busy machine longer than a run waits for it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with closing(Spark(remote)) as session:
                session.version()
        except EngineUnavailableError:
            if time.monotonic() > until:
                raise
            continue
        return


def run_hour(rows: int, feed: Feed, engine: str, server: Server) -> dict[str, Any]:
    """What the hour takes, and what the tables are afterwards."""
    with TemporaryDirectory(dir=CACHE) as name, serving(feed.folder) as url:
        lake = Path(name) / "tables"
        copy_history(rows, lake)
        command = [sys.executable, "-m", "bench.ours_inprocess", url, str(lake), feed.start, feed.end]
        if engine == "spark":
            command.append(server.remote)
        server.forget_peak()
        before = server.cpu_seconds()
        measured = measure(command)
        cost = {
            "seconds": measured.said["seconds"],
            "cpu_seconds": measured.cpu_seconds,
            "peak_mib": measured.peak_mib,
            "spark_cpu_seconds": server.cpu_seconds() - before if engine == "spark" else 0.0,
            "spark_peak_mib": server.peak_mib() if engine == "spark" else 0.0,
        }
        return {
            **cost,
            "tables_seconds": measured.said["tables"],
            "is_correct": count_rows(lake) == expected_counts(feed),
            "digests": digest_tables(lake),
        }


def compare(
    cases: list[tuple[int, bool]], changes: int, rounds: int, server: Server, *, warm_up: bool = True
) -> list[dict[str, Any]]:
    """Every case by both engines, in turns; a case is rows, and whether updates are scattered over them."""
    feeds = {case: open_feed(spec_of(case[0], changes, scattered=case[1])) for case in cases}
    for rows, _ in cases:
        open_history(rows)
    runs: dict[tuple[int, bool, str], list[dict[str, Any]]] = {(*case, name): [] for case in cases for name in ENGINES}
    for number in range(0 if warm_up else 1, rounds + 1):
        for case in cases:
            for engine in ENGINES:
                result = run_hour(case[0], feeds[case], engine, server)
                print(
                    f"round {number}, {case[0]:,} rows{', scattered' * case[1]}, {engine}: {result['seconds']:.2f} s, "
                    f"{result['cpu_seconds']:.2f} + {result['spark_cpu_seconds']:.2f} CPU s, "
                    f"{result['peak_mib']:.0f} + {result['spark_peak_mib']:.0f} MiB"
                    f"{', NOT CORRECT' * (not result['is_correct'])}",
                    flush=True,
                )
                if number:
                    runs[*case, engine].append(result)
    return [_describe(rows, scattered, engine, results, runs) for (rows, scattered, engine), results in runs.items()]


def _describe(
    rows: int, scattered: bool, engine: str, results: list[dict[str, Any]], runs: dict[Any, list[dict[str, Any]]]
) -> dict[str, Any]:
    """One engine's runs of a case; correct where the rows are the same as those of all runs of both engines."""
    digests = [result["digests"] for name in ENGINES for result in runs[rows, scattered, name]]
    tables = results[0]["tables_seconds"]
    return {
        "rows": rows,
        "scattered": scattered,
        "engine": engine,
        "is_correct": all(result["is_correct"] for result in results),
        "is_equal": digests.count(digests[0]) == len(digests),
        **{name: summarize([result[name] for result in results]) for name in FIGURES},
        "total_cpu_seconds": summarize([result["cpu_seconds"] + result["spark_cpu_seconds"] for result in results]),
        "tables_seconds": {
            table: summarize([result["tables_seconds"][table] for result in results])["median"] for table in tables
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The same hour merged by delta-rs and by Spark.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--scattered", type=int, nargs="*", default=[100_000], help="rows, of the worst case")
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="4g", help="of Spark's Java, at most")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    parser.add_argument("--keep", action="store_true", help="of what was published, cases of other sizes stay")
    options = parser.parse_args()
    cases = [(whole_hours(rows), False) for rows in options.rows]
    cases += [(whole_hours(rows), True) for rows in options.scattered]
    subprocess.run([sys.executable, "-m", "dicom_assets_tests.spark.fetch"], cwd=ROOT, check=True)
    CACHE.mkdir(exist_ok=True)
    with serve_spark(options.memory) as server:
        described = compare(cases, options.changes, options.rounds, server)
    content = {
        "changes": options.changes,
        "rounds": options.rounds,
        "spark": {"version": SPARK_VERSION, "delta": DELTA_VERSION, "memory": options.memory},
        "cases": described,
    }
    if options.keep:
        before = json.loads((PUBLISHED / "engines.json").read_text())
        content["cases"] += [case for case in before["cases"] if (case["rows"], case["scattered"]) not in cases]
        content["command"] = f"{before['command']}; then {this_command()}"
    path = save("engines", content, publish=options.publish)
    print(f"\nWritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
