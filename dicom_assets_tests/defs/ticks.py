"""Ticks of the sensors by a clock that is set by hand, and the runs they ask for, executed in this process."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import yaml
from starlette.requests import Request
from starlette.responses import Response

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.naming import PLAIN
from dicom_assets.defs.partitions import hours_between, parse_key, partition_key
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.dagster_private import freeze_time
from dicom_assets_tests.emulator.settable_clock import SettableClock
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import CHAIN, START, read_tables

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
NO_OUTPUT = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
"""Where what steps print goes: nowhere. To keep it Dagster starts four processes for every step."""
HOME = {"telemetry": {"enabled": False}, "compute_logs": NO_OUTPUT}
"""`dagster.yaml` of a home in which nobody looks at what steps print."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def key(hour: float) -> str:
    return partition_key(START + hour * HOUR)


def hours_of(tags) -> list[str]:
    """The partitions that a run or a request with these tags is of."""
    if "dagster/partition" in tags:
        return [tags["dagster/partition"]]
    first, last = (parse_key(tags[tag]) for tag in RANGE)
    return [partition_key(hour) for hour in hours_between(first, last + HOUR)]


def create_home(folder: Path) -> Path:
    """An empty home of Dagster."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump(HOME))
    return folder


class Tick(NamedTuple):
    hours: list[list[str]]
    """Of every run that was asked for."""
    told: str | None
    """Why nothing was."""
    questions: int
    """Requests to the service."""
    requests: list[dg.RunRequest]


class Automation:
    """A service behind a socket, a lake, a Dagster instance and a clock; `url` is set by whoever serves."""

    url: str

    def __init__(self, folder: Path, service: Service, instance: dg.DagsterInstance) -> None:
        self.folder, self.service, self.instance = folder, service, instance
        self.clock = SettableClock(START)
        self.settings: dict[str, str] = {}
        self.cursors: dict[str, str | None] = {}
        self.questions: list[Request] = []
        self.answer: Callable[[Request], Response | None] = lambda request: None
        """What the service says to a request, in place of what it would say."""

    def intercept(self, request: Request) -> Response | None:
        self.questions.append(request)
        return self.answer(request)

    def load_settings(self):
        return load_settings(
            {
                "DICOM_SERVICE_URL": self.url,
                "DICOM_AUTHENTICATION": "none",
                "DICOM_START_TIME": START.isoformat(),
                "DICOM_STORAGE_URL": str(self.folder / "lake"),
            }
            | self.settings
        )

    def definitions(self) -> dg.Definitions:
        return build_definitions(self.load_settings(), now=self.clock)

    def set_clock(self, hour: float) -> None:
        self.clock.set(START + hour * HOUR)

    def store(self, hour: float, number: int) -> None:
        """The instance of this number, at a time in hours from the start; it may lie in the past."""
        uids = ("0020000D", "1.1"), ("0020000E", "1.1.1"), ("00080018", f"1.1.1.{number}")
        metadata = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids}
        self.service.store_metadata(metadata, at=START + timedelta(hours=hour))

    def tick(self, name: str) -> Tick:
        """A tick as Dagster makes it, but for the runs."""
        definitions = self.definitions()
        before = len(self.questions)
        with (
            freeze_time(self.clock()),
            dg.build_sensor_context(
                self.instance, self.cursors.get(name), repository_def=definitions.get_repository_def(), sensor_name=name
            ) as context,
        ):
            data = definitions.resolve_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        requests = list(data.run_requests or [])
        hours = [hours_of(request.tags) for request in requests]
        return Tick(hours, data.skip_message, len(self.questions) - before, requests)

    def run(self, request: dg.RunRequest, *, fails: bool = False) -> None:
        """The run of a request, at the clock's time."""
        job = self.definitions().resolve_job_def(PLAIN.hours_job)
        with freeze_time(self.clock()):
            result = job.execute_in_process(
                instance=self.instance, run_config=QUIET, tags=dict(request.tags), raise_on_error=False,
                partition_key=request.partition_key,
            )  # fmt: skip
        assert result.success is not fails

    def follow(self, tick: Tick) -> Tick:
        for request in tick.requests:
            self.run(request)
        return tick

    def catch_up(self) -> Tick:
        """A tick of the catch-up, and its runs."""
        return self.follow(self.tick("catch_up"))

    def look(self) -> Tick:
        """A tick of the sensor of the feed, and its runs."""
        return self.follow(self.tick("change_feed_sensor"))

    def times_materialized(self, names=CHAIN) -> Counter[str]:
        """How often each hour was materialised; the same for all these assets."""
        by_asset = []
        for name in names:
            records = self.instance.fetch_materializations(dg.AssetKey(name), limit=10_000).records
            by_asset.append(Counter(record.partition_key for record in records))
        assert all(each == by_asset[0] for each in by_asset)
        return by_asset[0]

    def check_law(self) -> None:
        expected = reference.fold(self.service.change_feed(limit=10**6))
        expected["file_index"] = []  # this service has no files
        assert read_tables(build_lake(self.load_settings())) == expected


@contextmanager
def open_automation(folder: Path, *, in_memory: bool = True):
    """With a Dagster instance in memory, or in the folder `dagster`."""
    with ExitStack() as stack:
        service = stack.enter_context(Service(seed=1))
        if in_memory:
            home = dg.DagsterInstance.ephemeral(tempdir=str(folder))
        else:
            (folder / "dagster").mkdir()
            home = dg.DagsterInstance.local_temp(str(folder / "dagster"), HOME)
        instance = stack.enter_context(home)
        automation = Automation(folder, service, instance)
        with serve(service, intercept=automation.intercept) as automation.url:
            yield automation
