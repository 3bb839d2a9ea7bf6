"""Two components in a stock project, beside an asset, an executor, a job and resources whose names are ours, too."""

import importlib
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.core.columns.schema import SERIES
from dicom_assets.defs.naming import Naming
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.network import webhook
from dicom_assets_tests.component.project import CARDIOLOGY, COLUMNS, NORTH, run_dg, write_project
from dicom_assets_tests.law.world import CHAIN, START

HOUR = "2026-03-01-00:00"
FILES = {
    "north/defs.yaml": NORTH,
    "cardiology/defs.yaml": CARDIOLOGY,
    "cardiology/columns.toml": COLUMNS,
}
PREFIXES = ("radiology__north__", "cardiology__")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Hospital:
    """The project, loaded in this process, with a Dagster instance and the alerts that were posted."""

    folder: Path
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    alerts: list[dict] = field(default_factory=list)
    cursors: dict[str, str | None] = field(default_factory=dict)

    @property
    def repository(self):
        return self.definitions.get_repository_def()

    def run(self, name: str, **how) -> dg.ExecuteInProcessResult:
        job = self.repository.get_job(name)
        return job.execute_in_process(instance=self.instance, raise_on_error=False, **how)

    def tick_alerts(self) -> None:
        """Evaluate the sensors of alerts as the daemon does."""
        for prefix in PREFIXES:
            name = f"{prefix}alert_on_failure"
            context = dg.build_sensor_context(
                self.instance, cursor=self.cursors.get(name), repository_def=self.repository
            )
            self.cursors[name] = self.repository.get_sensor_def(name).evaluate_tick(context).cursor


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    with Service(seed=1, file_store=tmp_path_factory.mktemp("files")) as service:
        write_history(service, start=START, hours=2, instances=30, seed=3)
        with serve(service) as url:
            yield {"NORTH_URL": url, "CARDIOLOGY_URL": url, "ALERT_URL": "https://alerts.example/1e5"}


@pytest.fixture
def hospital(tmp_path, urls, monkeypatch):
    package = write_project(tmp_path, FILES)
    alerts: list[dict] = []
    monkeypatch.setattr(webhook, "post_alert", lambda url, body: alerts.append({**body, "url": url}))
    monkeypatch.syspath_prepend(str(package.parent))
    for name, value in urls.items():
        monkeypatch.setenv(name, value)
    try:
        definitions = importlib.import_module("hospital.definitions").defs()
        with dg.DagsterInstance.ephemeral() as instance:
            yield Hospital(tmp_path, definitions, instance, alerts)
    finally:
        for module in [name for name in sys.modules if name.split(".")[0] == "hospital"]:
            del sys.modules[module]


def names_of(repository) -> set[str]:
    return {
        *repository.job_names,
        *(sensor.name for sensor in repository.sensor_defs),
        *(schedule.name for schedule in repository.schedule_defs),
        *repository.get_top_level_resources(),
        *(key.to_python_identifier() for key in repository.asset_graph.get_all_asset_keys()),
    }


def test_dg_takes_the_project_as_scaffolded_and_as_written(tmp_path):
    package = write_project(tmp_path, FILES)
    status, output = run_dg(tmp_path, "scaffold", "defs", "dicom_assets.DicomLakeComponent", "imaging")
    assert status == 0, output
    assert "IMAGING_SERVICE_URL" in (package / "defs/imaging/defs.yaml").read_text()
    status, output = run_dg(tmp_path, "check", "defs")  # the YAML, too; no variable is set
    assert status == 0, output
    assert "All component YAML validated successfully" in output


def test_dg_shows_our_message_below_its_line_and_no_secret(tmp_path):
    write_project(tmp_path, {"north/defs.yaml": NORTH.replace("authentication: none", "batch_size: 900")})
    status, output = run_dg(tmp_path, "check", "defs", NORTH_URL="http://127.0.0.1:1", ALERT_URL="https://x/secret")
    assert status != 0
    assert "between 1 and 200" in output
    assert "defs.yaml:7" in output
    assert "x/secret" not in output


def test_every_name_has_the_prefix_and_the_project_s_own_are_left_alone(hospital):
    names = names_of(hospital.repository)
    own = {name for name in names if not name.startswith((*PREFIXES, "__"))} - {"io_manager"}
    assert own == {"research__instance", "broken", "hours", "catch_up", "delta", "dicom_service"}
    assert {f"{prefix}{name}" for prefix in PREFIXES for name in CHAIN} <= names
    nodes = {node.key.to_user_string(): node for node in hospital.repository.asset_graph.asset_nodes}
    assert nodes["radiology/north/study"].owners == ["team:radiology"]
    assert nodes["radiology/north/study"].tags["retention"] == "long"
    assert nodes["cardiology/study"].group_name == "heart"
    assert not nodes["cardiology/study"].owners


def test_our_jobs_run_in_process_and_the_executor_of_the_project_stays(hospital):
    for name in hospital.repository.job_names:
        expected = "in_process" if name.startswith(PREFIXES) else "multiprocess"
        assert hospital.repository.get_job(name).executor_def.name == expected, name


def test_sensors_and_schedules_start_out_as_the_file_says(hospital):
    repository = hospital.repository
    started = {
        definition.name
        for definition in (*repository.sensor_defs, *repository.schedule_defs)
        if definition.default_status.value == "RUNNING"
    }
    assert started == {
        f"cardiology__{name}"
        for name in (
            "alert_on_failure", "catch_up", "change_feed_sensor", "audit_lake_schedule", "check_freshness_schedule",
            "maintain_lake_schedule",
        )
    }  # fmt: skip


def test_one_run_materialises_an_hour_of_both_components_and_the_project_s_asset(hospital):
    ours = [dg.AssetKey([*prefix, name]) for prefix in (["radiology", "north"], ["cardiology"]) for name in CHAIN]
    result = hospital.run("__ASSET_JOB", asset_selection=ours, partition_key=HOUR, run_config=QUIET)
    assert result.success
    assert all(hospital.instance.get_materialized_partitions(key) == {HOUR} for key in ours)
    assert (hospital.folder / "data/north/instance").is_dir()
    assert (hospital.folder / "lake/dicom/instance").is_dir()  # relative to the file
    with_column = dict.fromkeys(("data/north", "lake/dicom"))
    for place in with_column:
        log = next((hospital.folder / place / "instance/_delta_log").glob("*0.json")).read_text()
        with_column[place] = "stationName" in log
    assert with_column == {"data/north": False, "lake/dicom": True}
    own = hospital.run("__ASSET_JOB", asset_selection=[dg.AssetKey(["research", "instance"])], run_config=QUIET)
    assert own.success


def test_alerts_are_about_runs_of_the_component_alone(hospital):
    hospital.tick_alerts()
    assert not hospital.run("__ASSET_JOB", asset_selection=[dg.AssetKey("broken")], run_config=QUIET).success
    assert not hospital.run("radiology__north__check_freshness", run_config=QUIET).success
    hospital.tick_alerts()
    (alert,) = hospital.alerts
    assert alert["steps"] == ["radiology__north__check_newest_hour"]
    assert alert["url"] == "https://alerts.example/1e5"  # as the variable has it


def test_audit_waits_for_runs_of_the_component_alone(hospital):
    assert hospital.run("radiology__north__hours", partition_key=HOUR, run_config=QUIET).success
    (settings,) = (
        resource.lake for name, resource in hospital.definitions.resources.items() if name.startswith("radiology")
        if hasattr(resource, "lake")
    )  # fmt: skip
    settings.open(SERIES).connect().delete()
    started = {"run_id": str(uuid.uuid4()), "status": dg.DagsterRunStatus.STARTED}
    for foreign in (
        dg.DagsterRun(job_name="hours", **started),
        dg.DagsterRun(job_name="__ASSET_JOB", asset_selection=frozenset({dg.AssetKey(["research", "instance"])})),
        dg.DagsterRun(job_name="cardiology__hours"),
    ):
        run = foreign.with_status(dg.DagsterRunStatus.STARTED)
        hospital.instance.add_run(run)
    assert not hospital.run("radiology__north__audit_lake", run_config=QUIET).success
    hospital.instance.add_run(dg.DagsterRun(job_name="radiology__north__hours", status=dg.DagsterRunStatus.STARTED))
    assert hospital.run("radiology__north__audit_lake", run_config=QUIET).success


def test_names_that_runs_belong_by_are_all_names_there_are(hospital):
    repository = hospital.repository
    naming = Naming(("radiology", "north"))
    with dg.DagsterInstance.ephemeral() as instance:
        for name in repository.job_names:
            if name != "__ASSET_JOB":
                job = repository.get_job(name)
                is_own = name.startswith("radiology__north__")
                assert naming.owns(dg.DagsterRun(job_name=name), instance) == is_own, name
                assert {naming.owns_step(node.name) for node in job.nodes} == {is_own}, name
