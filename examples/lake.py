"""A made-up department's two weeks in Delta tables: what the notebooks ask.

`python -m examples.lake` fills an embedded DICOM service, brings its change feed into tables with the project's assets,
and lays all of it out as a Fabric lakehouse is: tables under `Tables/`, DICOM files under `Files/`.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import dagster as dg

from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.partitions import PARTITION_FORMAT
from dicom_assets.demo.embedded import point_at
from dicom_assets.emulator.datasets.history import build_correction
from dicom_assets.emulator.datasets.sources import build_study, bundled_files
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import Metadata, first_value
from dicom_assets.emulator.store.store import Service

HERE = Path(__file__).parent
LAKEHOUSE = HERE.parent / "data" / "lakehouse"
START = datetime(2026, 3, 16, tzinfo=UTC)
"""A Monday."""
TODAY = datetime(2026, 3, 27, tzinfo=UTC)
"""The Friday of the second week."""
END = TODAY + timedelta(hours=18)
SEED = 7
"""Of a Friday on which something of every kind happens."""

_NEWEST_IMAGE = "J2K_pixelrep_mismatch.dcm"
"""Of the files that come with pydicom, a CT of a head. It arrives last, so that the newest image is one to look at."""
_STUDIES_PER_DAY = (16,) * 5 + (6,) * 2
"""From Monday to Sunday; as many are tried, and fewer come at night."""
_MOST_INSTANCES = 4
"""Of a series: enough to count, and quick to write."""
_OPENING_HOURS = range(7, 18)
_OPEN_AT_NIGHT = ("CT", "CR")
_SHARE_CORRECTED = 0.2
_SHARE_DELETED = 0.15
_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_LAST = END - _MINUTE
"""When the last change happens."""
_STUDY, _SERIES, _SOP_INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITY, _MODEL, _STUDY_TIME = "00080060", "00081090", "00080030"
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

_Act = tuple[datetime, Callable[..., object]]
"""When something happens to the service, and what; it takes `at`."""


def build_lakehouse(folder: Path, seed: int = SEED) -> Service:
    """Fills an empty folder; equal seeds fill it with equal rows.

    Returns:
        The service that the rows come from, to compare them with.
    """
    service = Service(file_store=folder / "Files", seed=seed)
    acts = sorted(_plan(service, random.Random(seed)), key=itemgetter(0))
    commits: dict[Path, datetime] = {}
    with serve(service) as url, dg.DagsterInstance.ephemeral() as instance:
        settings = _settings(url, folder)
        job = build_definitions(settings).resolve_implicit_global_asset_job_def()
        # The feed shows every instance as it is when it is read: so last night's tables are made last night.
        for start, end in ((START, TODAY), (TODAY, END)):
            with service.transaction():
                for at, act in acts:
                    if start <= at < end and at <= _LAST:
                        act(at=at)
            keys = [f"{hour:{PARTITION_FORMAT}}" for hour in (start, end - _HOUR)]
            tags = dict(zip(_RANGE, keys, strict=True))
            result = job.execute_in_process(run_config=_QUIET, instance=instance, tags=tags)
            if not all(check.passed for check in result.get_asset_check_evaluations()):
                raise RuntimeError("A check of the tables failed.")
            commits |= dict.fromkeys(_commits(settings) - commits.keys(), end)
    for commit, end in commits.items():
        # Readers take a version's time from its file. The open hour is read every minute: so these were, a minute ago.
        second = (end - _MINUTE).timestamp() + int(commit.stem)
        os.utime(commit, (second, second))
    return service


def _settings(url: str, folder: Path) -> Settings:
    env = {
        **point_at(url, folder, START, END, {}),
        "DICOM_STORAGE_URL": str(folder.parent),
        "DICOM_CONTAINER_NAME": folder.name,
        "DICOM_FILE_SYSTEM_URL": str(folder / "Files"),
        "DICOM_EXTRA_COLUMNS": str(HERE / "columns.toml"),
        "DICOM_RETENTION_HOURS": str(24 * 3650),  # these days are long ago, and Spark reads no version beyond retention
        **{f"DICOM_{table.name.upper()}_TABLE_PATH": f"Tables/{table.name}" for table in TABLES},
    }
    return load_settings(env)


def _commits(settings: Settings) -> set[Path]:
    lake = Path(settings.lake_url)
    return {path for table in settings.table_paths.values() for path in (lake / table / "_delta_log").glob("*.json")}


def _plan(service: Service, rng: random.Random) -> Iterator[_Act]:
    """Everything that happens to the service, in no order."""
    files = list(bundled_files())
    (newest,) = [file for file in files if file.path.name == _NEWEST_IMAGE]
    for study, group in groupby(sorted(files, key=lambda file: file.study), lambda file: file.study):
        at = START + timedelta(days=rng.randrange(9), hours=rng.choice(_OPENING_HOURS), seconds=rng.randrange(3600))
        for number, file in enumerate(group):
            if study != newest.study:
                yield at + timedelta(seconds=number), partial(file.store, service)
    yield _LAST, partial(newest.store, service)
    day = START
    while day < END:
        for _ in range(_STUDIES_PER_DAY[day.weekday()]):
            yield from _plan_study(service, rng, day)
        day += timedelta(days=1)


def _plan_study(service: Service, rng: random.Random, day: datetime) -> Iterator[_Act]:
    """A study's arrival some minutes after it was made, and perhaps its correction or its end."""
    made = day + timedelta(hours=rng.gauss(12.5, 4) % 24)
    instances = list(_build_study(rng, made))
    if made.hour not in _OPENING_HOURS and first_value(instances[0], _MODALITY) not in _OPEN_AT_NIGHT:
        return
    study, series, sop_instance = (first_value(instances[0], tag) for tag in (_STUDY, _SERIES, _SOP_INSTANCE))
    at = made + timedelta(minutes=rng.uniform(2, 20))
    for metadata in instances:
        at += timedelta(seconds=rng.random())
        yield at, partial(service.store_metadata, metadata, write_file=True)
    later = at + timedelta(hours=rng.uniform(0.5, 72))
    if rng.random() < _SHARE_CORRECTED:
        yield later, partial(service.update, study, build_correction(rng))
    elif rng.random() < _SHARE_DELETED:
        uids = (series, sop_instance)[: rng.randrange(3)]
        yield later, partial(service.delete, study, *uids)


def _build_study(rng: random.Random, made: datetime) -> Iterator[Metadata]:
    """Metadata of a study made on one scanner: of `build_study`'s series those of the first one's model."""
    series = [list(group) for _, group in groupby(build_study(rng, made.date()), lambda one: first_value(one, _SERIES))]
    model = first_value(series[0][0], _MODEL)
    for instances in series:
        if first_value(instances[0], _MODEL) == model:
            for metadata in instances[:_MOST_INSTANCES]:
                yield {**metadata, _STUDY_TIME: {"vr": "TM", "Value": [f"{made:%H%M%S}"]}}


def main() -> None:
    """Fill the folder that the notebooks look into anew."""
    shutil.rmtree(LAKEHOUSE, ignore_errors=True)
    with build_lakehouse(LAKEHOUSE) as service:
        print(f"{LAKEHOUSE}: {service.instance_count():,} instances after {service.change_count():,} changes")


if __name__ == "__main__":
    main()
