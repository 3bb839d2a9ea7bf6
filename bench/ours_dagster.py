"""The same as a run of Dagster with its history in SQLite: from the run's start to its success.

python -m bench.ours_dagster URL FOLDER START END

The work is what the IO manager does, since an asset hands over what is to be read and derived, and nothing is read
before it is stored. All else between start and success is orchestration.
"""

import time

began = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from datetime import datetime, timedelta  # noqa: E402
from pathlib import Path  # noqa: E402

import dagster as dg  # noqa: E402

from bench.ours import stopwatch  # noqa: E402

TO_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def environment(url: str, folder: str, start: str, end: str) -> dict[str, str]:
    """What the settings and Dagster need, for tables and Dagster's history in a folder."""
    return {
        "DICOM_SERVICE_URL": url,
        "DICOM_AUTHENTICATION": "none",
        "DICOM_START_TIME": start,
        "DICOM_END_TIME": end,
        "DICOM_STORAGE_URL": folder,
        "DICOM_CONTAINER_NAME": "lake",
        "DICOM_FILE_SYSTEM_URL": "abfss://files@bench.dfs.core.windows.net",
        "DAGSTER_HOME": str(Path(folder) / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def prepare(folder: str) -> Path:
    """Dagster's home below the folder, with the project's `dagster.yaml`."""
    home = Path(folder) / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
    return home


def run_range(job: dg.JobDefinition, instance: dg.DagsterInstance, start: datetime, end: datetime) -> dict[str, float]:
    """A run of all assets for the hours from `start` to `end`: seconds from start to success."""
    keys = [hour.strftime("%Y-%m-%d-%H:%M") for hour in (start, end - timedelta(hours=1))]
    tags = dict(zip(TO_RANGE, keys, strict=True)) if keys[0] != keys[1] else {"dagster/partition": keys[0]}
    result = job.execute_in_process(run_config=QUIET, instance=instance, tags=tags)
    record = instance.get_run_record_by_id(result.run_id)
    assert record
    assert record.start_time
    assert record.end_time
    return {"seconds": record.end_time - record.start_time}


def time_stores() -> dict[str, float]:
    """Seconds spent in the IO manager, by asset, of all runs that follow."""
    from dicom_assets.defs.assets.io_manager import DeltaIOManager

    store, work = DeltaIOManager.handle_output, {}

    def timed(self: DeltaIOManager, context: dg.OutputContext, obj: object) -> None:
        seconds: dict[str, float] = {}
        with stopwatch(seconds, name := context.asset_key.path[-1]):
            store(self, context, obj)
        work[name] = work.get(name, 0) + seconds[name]

    DeltaIOManager.handle_output = timed
    return work


def main(url: str, folder: str, start: str, end: str) -> None:
    home = prepare(folder)
    os.environ.update(environment(url, folder, start, end))
    work = time_stores()
    from dicom_assets.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        started = time.perf_counter()
        run = run_range(job, instance, datetime.fromisoformat(start), datetime.fromisoformat(end))
        around = time.perf_counter() - started
    spent = sum(work.values())
    print(
        json.dumps(
            {
                **run,
                "work_seconds": spent,
                "orchestration_seconds": run["seconds"] - spent,
                "with_run_creation_seconds": around,
                "import_seconds": started - began,
                "tables": work,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:5])
