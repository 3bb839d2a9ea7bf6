"""The assets as Dagster runs them, against the embedded service over a socket and a lake in a folder."""

import os
import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest

from dicom_assets.adapters import memory
from dicom_assets.core.schema import TABLES
from dicom_assets.definitions import build_definitions, build_lake
from dicom_assets.emulator.history import write_history
from dicom_assets.emulator.server import serve
from dicom_assets.emulator.store import Service
from dicom_assets.settings import Settings, load_settings
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import CHAIN, START, read_tables

HOURS = 6
KEYS = [f"2026-03-01-{hour:02}:00" for hour in range(HOURS)]
RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(seed=1, file_store=tmp_path_factory.mktemp("files")) as service:
        write_history(service, start=START, hours=HOURS, instances=150, seed=3)
        yield service


@pytest.fixture(scope="module")
def url(service):
    with serve(service) as url:
        yield url


@pytest.fixture
def environment(url, tmp_path) -> dict[str, str]:
    return {
        "DICOM_SERVICE_URL": url,
        "DICOM_AUTHENTICATION": "none",
        "DICOM_START_TIME": START.isoformat(),
        "DICOM_END_TIME": (START + timedelta(hours=HOURS)).isoformat(),
        "DICOM_STORAGE_URL": str(tmp_path / "lake"),
        "DICOM_FILE_SYSTEM_URL": "/files",
    }


@pytest.fixture
def settings(environment) -> Settings:
    return load_settings(environment)


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(settings, instance, *names: str, **how) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(name) for name in names] or None
    result = job.execute_in_process(instance=instance, asset_selection=selection, **how)
    assert result.success
    return result


def check_law(settings, service) -> None:
    entries = service.change_feed(limit=10**6)
    assert read_tables(build_lake(settings)) == reference.fold(entries)


def versions(settings) -> list[int]:
    lake = build_lake(settings)
    return [lake.version(table) for table in TABLES]


def test_a_range_in_one_run_gives_the_tables_of_the_law_and_again_changes_nothing(settings, instance, service):
    run(settings, instance, tags=RANGE)
    check_law(settings, service)
    before = versions(settings)
    run(settings, instance, tags=RANGE)
    run(settings, instance, partition_key=KEYS[2])
    assert versions(settings) == before


def test_a_range_that_does_not_fit_into_memory_is_stored_in_parts(settings, instance, service, monkeypatch):
    monkeypatch.setattr(memory, "_ENTRY_BYTES", 2**27)
    monkeypatch.setattr(memory, "_COPIES", 2**14)
    result = run(settings, instance, tags=RANGE)
    check_law(settings, service)
    for name in CHAIN:
        first, *_ = result.asset_materializations_for_node(name)
        assert first.metadata["commits"].value > 1, name


def test_hours_one_by_one_backwards_give_the_same_tables(settings, instance, service):
    for key in reversed(KEYS):
        run(settings, instance, partition_key=key)
    check_law(settings, service)


def test_each_asset_by_itself_for_mixed_hours_gives_the_same_tables(settings, instance, service):
    for name in CHAIN:
        for key in [*KEYS[3:], *KEYS[:3]]:
            run(settings, instance, name, partition_key=key)
    check_law(settings, service)


def test_a_subset_before_its_upstream_leaves_empty_tables_not_an_error(settings, instance):
    run(settings, instance, "instance", "series", "study", "file_index", partition_key=KEYS[0])
    assert all(rows == [] for rows in read_tables(build_lake(settings)).values())


def test_hours_of_a_range_have_their_own_numbers(settings, instance, service):
    run(settings, instance, "change_feed", tags=RANGE)
    counts = {}
    for key in KEYS:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("change_feed"), asset_partitions=[key]), limit=1
        ).records
        metadata = records[0].asset_materialization.metadata
        counts[key] = metadata["dagster/partition_row_count"].value
        actions = {name: value.value for name, value in metadata.items() if name.startswith("action/")}
        assert sum(actions.values()) == counts[key]
    for hour, key in enumerate(KEYS):
        start = START + timedelta(hours=hour)
        found = service.change_feed(start=start, end=start + timedelta(hours=1), limit=10**6, include_metadata=False)
        assert counts[key] == len(found)


def test_checks_run_with_the_assets_and_pass(settings, instance):
    result = run(settings, instance, tags=RANGE)
    evaluations = {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
    assert evaluations == {"instance_counts_agree": True, "files_agree": True}


def test_users_columns_are_filled_and_added_later_from_the_stored_feed(environment, instance, service, tmp_path):
    run(load_settings(environment), instance, tags=RANGE)
    columns = tmp_path / "columns.toml"
    columns.write_text(
        '[[columns]]\nname = "sliceThickness"\ntag = "00180050"\ntype = "double"\ngrain = "instance"\n'
        '[[columns]]\nname = "stationName"\ntag = "00081010"\ntype = "string"\ngrain = "series"\n'
    )
    extended = load_settings(
        environment | {"DICOM_EXTRA_COLUMNS": str(columns), "DICOM_SERVICE_URL": "http://127.0.0.1:9"}
    )
    run(extended, instance, "instance", "series", "study", "file_index", tags=RANGE)
    tables = read_tables(build_lake(extended))
    entries = service.change_feed(limit=10**6)
    newest = {entry["sequence"]: entry.get("metadata", {}) for entry in entries}
    for row in tables["instance"]:
        value = (newest[row["sequence"]].get("00180050") or {}).get("Value", [None])[0]
        assert row["sliceThickness"] == (None if value is None else float(value))
    assert any(row["sliceThickness"] is not None for row in tables["instance"])
    assert any(row["stationName"] is not None for row in tables["series"])
    run(load_settings(environment), instance, partition_key=KEYS[0])  # removed later: nothing breaks
    assert "sliceThickness" in read_tables(build_lake(extended))["instance"][0]


COMMAND = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "dicom_assets.definitions", "--select", "*"]


@pytest.mark.parametrize(("option", "first", "last"), [("--partition", 2, 2), ("--partition-range", 2, 5)])
def test_the_command_line_materialises_an_hour_and_a_range(option, first, last, environment, service, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    finished = subprocess.run(
        [*COMMAND, option, KEYS[first] if first == last else f"{KEYS[first]}...{KEYS[last]}"],
        env=os.environ | environment | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "RUN_SUCCESS" in finished.stderr
    start, end = (START + timedelta(hours=hour) for hour in (first, last + 1))
    entries = service.change_feed(start=start, end=end, limit=10**6)
    assert read_tables(build_lake(load_settings(environment))) == reference.fold(entries)


def test_two_runs_in_two_processes_at_the_same_time_leave_the_tables_of_the_law(environment, service, tmp_path):
    processes = []
    for place, (first, last) in enumerate([(0, 3), (2, 5)]):
        home = tmp_path / f"home-{place}"
        home.mkdir()
        processes.append(
            subprocess.Popen(
                [*COMMAND, "--partition-range", f"{KEYS[first]}...{KEYS[last]}"],
                env=os.environ | environment | {"DAGSTER_HOME": str(home)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    check_law(load_settings(environment), service)
