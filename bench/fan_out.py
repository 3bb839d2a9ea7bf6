"""A month of hours brought into a lake by one worker of Celery, and by four: how much sooner, and are the tables equal?

python -m bench.fan_out --days 30 --changes-per-hour 100 --latency-milliseconds 300 --kill

As in docs/deploy.md: Dagster's history in Postgres, runs in Celery's queue in Redis, all on this machine. Each day is a
run, all asked for at once. Reading has a place for every worker, merges have one. Every page of the service is late by
the latency: over loopback it would take no time. With `--kill`, one of four workers is killed in the midst of a run,
which is run again as soon as it has failed. The workers are there before the clock starts.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.check import is_correct
from bench.feed import CACHE, Feed, Spec, open_feed
from bench.measure import ROOT, save
from bench.ours_dagster import environment
from bench.server import serving
from dicom_assets_tests.defs.deployment import Dagster, start, wait_for
from dicom_assets_tests.deploy import celery, postgres, redis

_DAY = timedelta(days=1)
_PATIENCE_SECONDS = 3600


@contextmanager
def cluster(folder: Path, settings: dict[str, str], workers: int) -> Iterator[Dagster]:
    """Dagster with workers, until the block ends."""
    with ExitStack() as stack:
        database, broker = stack.enter_context(postgres.serve()), stack.enter_context(redis.serve())
        dagster = Dagster(folder)
        settings |= {"DICOM_CHANGE_FEED_POOL": "dicom_service", celery.URL: broker}
        settings = {name: value for name, value in settings.items() if name != "DAGSTER_HOME"}
        stack.enter_context(
            start(
                dagster,
                settings,
                quick=False,
                storage={"postgres": {"postgres_db": database}},
                run_launcher=celery.run_launcher(),
                concurrency={"runs": {"max_concurrent_runs": workers}, "pools": {"granularity": "op"}},
            )
        )
        for pool, places in (("dicom_lake", 1), ("dicom_service", workers)):
            dagster.instance.event_log_storage.set_concurrency_slots(pool, places)
        stack.enter_context(celery.work(folder, dagster.surroundings, workers))
        yield dagster


def measure_month(feed: Feed, url: str, workers: int, *, kill: bool) -> dict[str, Any]:
    """Seconds from the request for all days to the success of the last, and whether the tables are right."""
    with TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        settings = environment(url, name, feed.start, feed.end)
        with cluster(folder, settings, workers) as dagster:
            began = time.perf_counter()
            runs = [dagster.launch_run(*days) for days in _days(feed)]
            again = [_kill_one(dagster, runs)] if kill else []
            ended = dagster.finish(*runs, *again, patience_seconds=_PATIENCE_SECONDS)
            seconds = time.perf_counter() - began
            spans = dagster.spans(*runs, *again)
        if ended.count("SUCCESS") != len(runs):
            raise SystemExit(f"Runs ended as {ended}; kept nothing.")
        reading = [span for span in spans if span[2] == "change_feed"]
        return {
            "workers": workers,
            "killed": int(kill),
            "seconds": round(seconds, 1),
            "reading_at_once": _most_at_once(reading),
            "reading_seconds": round(sum(end - begin for begin, end, _ in reading), 1),
            "merging_seconds": round(sum(end - begin for begin, end, key in spans if key != "change_feed"), 1),
            "is_correct": is_correct(folder, feed, 5),
        }


def _days(feed: Feed) -> Iterator[tuple[str, str]]:
    """First and last hour of each day."""
    day, end = datetime.fromisoformat(feed.start), datetime.fromisoformat(feed.end)
    while day < end:
        last = min(day + _DAY, end) - timedelta(hours=1)
        yield f"{day:%Y-%m-%d-%H:%M}", f"{last:%Y-%m-%d-%H:%M}"
        day += _DAY


def _kill_one(dagster: Dagster, runs: list[str]) -> str:
    """Kills a worker in the midst of a run, and has what is missing of it run again; gives that run's id."""

    def reading() -> str | None:
        started = [run for run in runs if dagster.status(run) == "STARTED"]
        return next((run for run in started if dagster.spans(run)), None)

    run = wait_for(reading, "a run that has begun", _PATIENCE_SECONDS)
    dagster.kill(run)
    dagster.finish(run)
    return dagster.reexecute(run)


def _most_at_once(spans: list[tuple[float, float, str]]) -> int:
    return max(sum(begin <= moment < end for begin, end, _ in spans) for moment, _, _ in spans)


def main() -> None:
    parser = argparse.ArgumentParser(description="A month of hours by one worker and by four.")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--changes-per-hour", type=int, default=100)
    parser.add_argument("--latency-milliseconds", type=int, default=300, help="of every page of the service")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--kill", action="store_true", help="once more with the most workers, one of them killed")
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    if missing := celery.find_missing():
        raise SystemExit(f"This takes what is missing here: {missing}.")
    hours = options.days * 24
    feed = open_feed(Spec(options.changes_per_hour * hours, hours))
    wanted = [(workers, False) for workers in options.workers] + [(max(options.workers), True)] * options.kill
    cases = []
    with serving(feed.folder, latency_seconds=options.latency_milliseconds / 1000) as url:
        for workers, kill in wanted:
            cases.append(measure_month(feed, url, workers, kill=kill))
            print(cases[-1], flush=True)
    result = {
        "days": options.days,
        "changes_per_hour": options.changes_per_hour,
        "latency_milliseconds": options.latency_milliseconds,
        "cases": cases,
    }
    path = save("fan_out", result, publish=options.publish)
    slow, fast = cases[0], cases[len(options.workers) - 1]
    print(f"{fast['workers']} workers: {slow['seconds'] / fast['seconds']:.2f} × as fast as {slow['workers']}")
    print(f"Written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
