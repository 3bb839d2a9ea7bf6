"""Several services in one lake: each an asset group of its own, and none held back by another's outage."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from starlette.responses import Response
from typer.testing import CliRunner

from dicom_assets.cli import app as cli
from dicom_assets.config.connections import build_lake
from dicom_assets.config.services import load_services
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.naming import Naming
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.dagster_private import freeze_time
from dicom_assets_tests.defs.ticks import HOME, QUIET, create_home, key
from dicom_assets_tests.emulator.settable_clock import SettableClock
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import CHAIN, START, read_tables

NAMES = ("north", "south")
FIRST_HOURS = {"north": 0, "south": 1, "southern": 1}
JOBS = {"hours", "audit_lake", "check_freshness", "doctor", "maintain_lake"}


class Site:
    """A service that may be down, and its entries; both sites hold instances of the same UIDs."""

    def __init__(self, name: str, service: Service) -> None:
        self.name, self.service = name, service
        self.url = ""
        self.refusal: int | None = None
        """Status of every answer."""

    def intercept(self, request) -> Response | None:
        return None if self.refusal is None else Response(status_code=self.refusal)

    def store(self, hour: float, number: int, patient: str = "A") -> None:
        uids = ("0020000D", "1.1"), ("0020000E", "1.1.1"), ("00080018", f"1.1.1.{number}")
        metadata = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids}
        metadata["00100020"] = {"vr": "LO", "Value": [f"{self.name}-{patient}"]}
        self.service.store_metadata(metadata, at=START + timedelta(hours=hour))

    def delete(self, hour: float, number: int) -> None:
        self.service.delete("1.1", "1.1.1", f"1.1.1.{number}", at=START + timedelta(hours=hour))


class Sites:
    """Both services, one lake, one Dagster instance, and a clock."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, sites: dict[str, Site], tables: str) -> None:
        self.folder, self.instance, self.sites, self.tables = folder, instance, sites, tables
        self.clock = SettableClock(START + 3 * HOUR)
        self.env = {"DICOM_SERVICES": str(folder / "services.toml"), "DICOM_STORAGE_URL": str(folder / "lake")}

    def settings(self):
        lines = [f'tables = "{self.tables}"']
        for site in self.sites.values():
            start = START + FIRST_HOURS[site.name] * HOUR
            lines += [f"[services.{site.name}]", f'service_url = "{site.url}"', 'authentication = "none"']
            lines += [f'start_time = "{start.isoformat()}"']
        (self.folder / "services.toml").write_text("\n".join(lines))
        return load_services(self.env)

    def definitions(self) -> dg.Definitions:
        return build_definitions(*self.settings(), now=self.clock)

    def tick(self, name: str) -> tuple[list[dg.RunRequest], str | None]:
        definitions = self.definitions()
        with (
            freeze_time(self.clock()),
            dg.build_sensor_context(
                self.instance, None, repository_def=definitions.get_repository_def(), sensor_name=name
            ) as context,
        ):
            data = definitions.resolve_sensor_def(name).evaluate_tick(context)
        return list(data.run_requests or []), data.skip_message

    def run(self, name: str, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.definitions().resolve_job_def(f"{name}__hours")
        with freeze_time(self.clock()):
            return job.execute_in_process(
                instance=self.instance, run_config=QUIET, tags=dict(request.tags), partition_key=request.partition_key
            )

    def catch_up(self, name: str) -> list[dg.ExecuteInProcessResult]:
        requests, _ = self.tick(f"{name}__catch_up")
        return [self.run(name, request) for request in requests]

    def check_law(self, name: str) -> None:
        (settings,) = (each for each in self.settings() if each.service_name == name)
        expected = reference.fold(self.sites[name].service.change_feed(limit=10**6))
        expected["file_index"] = []  # these services have no files
        assert read_tables(build_lake(settings)) == expected

    def command(self, *arguments: str):
        return CliRunner().invoke(cli.app, arguments, env=self.env | {"COLUMNS": "200", "NO_COLOR": "1"})


@contextmanager
def open_sites(folder: Path, tables: str) -> Iterator[Sites]:
    (folder / "dagster").mkdir(exist_ok=True)
    with ExitStack() as stack:
        sites = {}
        for name in NAMES:
            site = sites[name] = Site(name, stack.enter_context(Service(seed=1)))
            site.url = stack.enter_context(serve(site.service, intercept=site.intercept))
            for number in (1, 2, 3):
                site.store(1.1, number)
        sites["south"].delete(1.2, 1)
        sites["north"].store(0.5, 4, "B")
        home = dg.DagsterInstance.local_temp(str(folder / "dagster"), HOME)
        yield Sites(folder, stack.enter_context(home), sites, tables)


@pytest.fixture(params=["own", "shared"])
def tables(request, monkeypatch) -> str:
    """Whether each has tables of its own, or they share them."""
    for name in [name for name in os.environ if name.startswith(("DICOM_", "AZURE_"))]:
        monkeypatch.delenv(name)
    return request.param


@pytest.fixture
def sites(tables, tmp_path) -> Iterator[Sites]:
    with open_sites(tmp_path, tables) as opened:
        yield opened


def test_each_service_is_a_group_with_names_of_its_own(sites):
    definitions = sites.definitions()
    dg.Definitions.validate_loadable(definitions)
    nodes = {node.key.to_user_string(): node for node in definitions.resolve_asset_graph().asset_nodes}
    assert {name: sorted(key.to_user_string() for key in node.parent_keys) for name, node in nodes.items()} == {
        "north/change_feed": [],
        "north/instance": ["north/change_feed"],
        "north/series": ["north/instance"],
        "north/study": ["north/instance", "north/series"],
        "north/file_index": ["north/instance"],
        "south/change_feed": [],
        "south/instance": ["south/change_feed"],
        "south/series": ["south/instance"],
        "south/study": ["south/instance", "south/series"],
        "south/file_index": ["south/instance"],
    }
    for name, node in nodes.items():
        service = name.partition("/")[0]
        assert node.group_name == service
        assert node.pools == {f"{service}__dicom_lake"}
        assert node.partitions_def.get_first_partition_key() == key(FIRST_HOURS[service])
        assert node.metadata["dagster/uri"].endswith(
            f"dicom/{name}" if sites.tables == "own" else f"dicom/{name.partition('/')[2]}"
        )
        assert {check.asset_key for check in node.check_keys} == {node.key}
        assert node.check_keys
    repository = definitions.get_repository_def()
    both = {f"{name}__{job}" for name in NAMES for job in JOBS}
    assert {job for job in repository.job_names if job != "__ASSET_JOB"} == both
    assert {sensor.name for sensor in repository.sensor_defs} == {
        f"{name}__{sensor}" for name in NAMES for sensor in ("catch_up", "change_feed_sensor")
    }
    assert {schedule.job_name for schedule in repository.schedule_defs} == both - {
        f"{name}__{job}" for name in NAMES for job in ("hours", "doctor")
    }
    lineage = nodes["south/instance"].metadata["dagster/column_lineage"].deps_by_column
    assert {dep.asset_key.to_user_string() for deps in lineage.values() for dep in deps} == {"south/change_feed"}


def test_an_outage_of_one_does_not_hold_back_the_other(sites):
    south = sites.sites["south"]
    south.refusal = 503
    (north_run,) = sites.catch_up("north")
    assert north_run.success
    checks = {
        f"{each.asset_key.to_user_string()}: {each.check_name}" for each in north_run.get_asset_check_evaluations()
    }
    assert "north/change_feed: feed_complete" in checks
    assert "north/study: agrees_with_instance" in checks
    found = {each.check_name: each.passed for each in north_run.get_asset_check_evaluations()}
    assert [name for name, passed in found.items() if not passed] == ["values_converted"]  # there is no modality
    for sensor in ("catch_up", "change_feed_sensor"):
        requests, told = sites.tick(f"south__{sensor}")
        assert not requests
        assert "503" in told
        assert south.url in told
    sites.check_law("north")
    assert list((sites.folder / "lake").rglob("*south*")) == []

    south.refusal = None
    (south_run,) = sites.catch_up("south")
    assert south_run.success
    for name in NAMES:
        sites.check_law(name)
    assert sites.catch_up("north") == []
    sites.sites["north"].delete(1.3, 2)  # late, of an instance that south has too
    (request, *_), _ = sites.tick("north__change_feed_sensor")
    assert sites.run("north", request).success
    for name in NAMES:
        sites.check_law(name)
    del sites.sites["south"]  # a service that is alone in its file has its name all the same
    assert {node.key.path[0] for node in sites.definitions().resolve_asset_graph().asset_nodes} == {"north"}


def test_upkeep_and_audit_of_a_service_are_of_its_own_tables(sites):
    for name in NAMES:
        sites.catch_up(name)
    definitions = sites.definitions()
    audit = definitions.resolve_job_def("south__audit_lake")
    assert audit.execute_in_process(instance=sites.instance, run_config=QUIET).success
    upkeep = definitions.resolve_job_def("south__maintain_lake").execute_in_process(
        instance=sites.instance, run_config={"dry_run": False}
    )
    observed = {
        event.asset_observation_data.asset_observation.asset_key.to_user_string()
        for event in upkeep.all_events
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION
    }
    assert observed == {f"south/{name}" for name in CHAIN}
    for name in NAMES:
        sites.check_law(name)


def test_runs_of_another_service_are_not_this_one_s():
    with dg.DagsterInstance.ephemeral() as instance:
        north = Naming.of_service("north")
        run = dg.DagsterRun(job_name="north__hours")
        other = dg.DagsterRun(job_name="__ASSET_JOB", asset_selection=frozenset({dg.AssetKey(["south", "study"])}))
        assert north.owns(run, instance)
        assert not Naming.of_service("north_west").owns(run, instance)
        assert not north.owns(other, instance)
        assert not Naming().owns(other, instance)


@pytest.fixture(scope="module")
def fill(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a filled lake and of the Dagster instance that filled it; once for each kind of tables."""

    @cache
    def fill(tables: str) -> Path:
        folder = tmp_path_factory.mktemp(tables)
        with open_sites(folder, tables) as sites:
            for name in NAMES:
                assert [run.success for run in sites.catch_up(name)] == [True]
        return folder

    return fill


@pytest.fixture
def filled(tables, fill, tmp_path, monkeypatch) -> Iterator[Sites]:
    for name in ("lake", "dagster"):
        shutil.copytree(fill(tables) / name, tmp_path / name)
    with open_sites(tmp_path, tables) as sites:
        sites.settings()  # for commands, which read its file
        monkeypatch.setenv("DAGSTER_HOME", sites.instance.root_directory)
        yield sites


def test_sql_asks_all_services_or_one(filled):
    asked = "SELECT serviceName, patientId, count(*) AS n FROM instance GROUP BY 1, 2 ORDER BY 1, 2"
    ran = filled.command("sql", asked, "--format", "jsonl")
    assert [tuple(json.loads(line).values()) for line in ran.stdout.splitlines()] == [
        ("north", "north-A", 3),
        ("north", "north-B", 1),
        ("south", "south-A", 2),
    ]
    for question in (
        ["SELECT count(*) AS n FROM south.instance"],
        ["SELECT count(*) AS n FROM instance", "--service", "south"],
    ):
        assert json.loads(filled.command("sql", *question, "--format", "jsonl").stdout) == {"n": 2}
    listed = filled.command("sql", "SHOW TABLES", "--format", "jsonl").stdout.splitlines()
    assert {json.loads(line)["table"] for line in listed} == {f"{name}.{table}" for name in NAMES for table in CHAIN}
    described = filled.command("sql", "DESCRIBE study", "--format", "jsonl").stdout.splitlines()
    assert json.loads(described[0])["column"] == "serviceName"
    wrong = filled.command("sql", "SELECT patientid FROM instance")
    assert "patientId" in str(wrong.exception)
    code = filled.command("sql", "SELECT 1", "--table-version", "instance=1").exit_code
    assert code == (2 if filled.tables == "own" else 0)


def test_other_commands_take_the_service_or_do_all_of_them(filled):
    assert "Name one: --service NAME" in str(filled.command("changes", "study", "--since", "beginning").exception)
    changed = filled.command("changes", "study", "--since", "beginning", "--format", "jsonl", "--service", "south")
    assert [json.loads(line)["patientId"] for line in changed.stdout.splitlines()] == ["south-A"]
    kept = filled.command("maintain", "--dry-run")
    assert kept.exit_code == 0
    assert [name for name in NAMES if f"{name}: Dry run" in kept.stdout] == list(NAMES)
    told = json.loads(filled.command("doctor", "service", "dagster.pool", "dagster.lake", "--json").stdout)
    checks = {each["check"]: each for each in told["findings"]}
    assert {name.partition("/")[0] for name in checks} == set(NAMES)
    assert checks["south/service.feed"]["status"] == "green"
    assert "south__dicom_lake" in checks["south/dagster.pool"]["found"]
    assert checks["north/dagster.lake"]["status"] == "green"
    one = json.loads(filled.command("doctor", "settings", "--service", "south", "--json").stdout)
    assert [each["check"] for each in one["findings"]] == ["south/settings"]
    unknown = json.loads(filled.command("doctor", "settings", "--service", "east", "--json").stdout)
    assert "There is no service 'east'" in unknown["findings"][0]["found"]


@pytest.mark.parametrize("tables", ["shared"], indirect=True)
def test_doctor_tells_of_rows_whose_service_has_left_the_file_or_has_another_name_there(filled):
    def look() -> dict:
        filled.settings()
        told = json.loads(filled.command("doctor", "lake.reach", "--service", "north", "--json").stdout)
        return next(each for each in told["findings"] if each["check"] == "north/lake.reach")

    assert look()["status"] == "green"
    filled.sites["southern"] = filled.sites.pop("south")
    filled.sites["southern"].name = "southern"
    finding = look()
    assert finding["status"] == "yellow"
    assert finding["found"].endswith("rows of services that DICOM_SERVICES does not list: south")
    assert "counted twice" in finding["why"]


@pytest.mark.parametrize("tables", ["own"], indirect=True)
def test_services_that_come_to_share_their_tables_are_read_anew_once_dagster_has_forgotten(filled):
    before = {path: path.read_bytes() for path in (filled.folder / "lake").rglob("*") if path.is_file()}
    filled.tables = "shared"
    filled.clock.advance(HOUR)
    requests, told = filled.tick("north__catch_up")
    assert not requests
    assert "change_feed is not at" in told
    assert "dicom-assets adopt --forget" in told
    assert filled.command("adopt", "--forget").exit_code == 0
    for name in NAMES:
        assert all(run.success for run in filled.catch_up(name))
        filled.check_law(name)
    assert {path: path.read_bytes() for path in before} == before


def test_adopt_tells_dagster_of_each_service_and_of_one_though_the_other_is_down(filled, tmp_path):
    home = create_home(tmp_path / "new")
    filled.env |= {"DAGSTER_HOME": str(home), "DICOM_END_TIME": (START + 3 * HOUR).isoformat()}
    filled.sites["north"].refusal = 403
    ran = filled.command("adopt")
    assert ran.exit_code == 1
    assert "Error: north: " in ran.stderr
    with dg.DagsterInstance.from_config(str(home)) as instance:
        known = {name: instance.get_materialized_partitions(dg.AssetKey([name, "study"])) for name in NAMES}
    assert known == {"north": set(), "south": {key(1), key(2)}}
