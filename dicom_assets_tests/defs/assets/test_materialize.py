"""The assets as Dagster runs them, against the embedded service over a socket and a lake in a folder."""

import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import dagster as dg
import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core import memory
from dicom_assets.core.columns.dicom_json import build_attributes_schema
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, TABLES
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.checks import same_version
from dicom_assets.derive import derivation as derive
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.defs.ticks import create_home
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import CHAIN, START, environment_of, partition_keys, range_tags, read_tables

HOURS = 6
KEYS = partition_keys(HOURS)
RANGE = range_tags(KEYS)


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
        **environment_of(url, HOURS),
        "DICOM_STORAGE_URL": str(tmp_path / "lake"),
        "DICOM_FILE_SYSTEM_URL": "/files",
    }


@pytest.fixture
def settings(environment) -> Settings:
    return load_settings(environment)


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


def test_a_run_frees_what_the_metadata_said_that_runs_before_it_have_read(settings, instance):
    definitions = build_definitions(settings)
    job = definitions.resolve_implicit_global_asset_job_def()
    lake = definitions.resources["delta"].lake
    kept: list[list[bool]] = []
    for key in KEYS[3:5]:
        assert job.execute_in_process(instance=instance, partition_key=key).success
        feed = lake.open(CHANGE_FEED)
        files = sorted(feed.files, key=lambda file: file.written_at)
        kept.append(
            [
                lake.attributes.find(file.name, build_attributes_schema(INSTANCE.attributes)) is not None
                for file in files
            ]
        )
    assert kept == [[True], [False, True]]


def plan(settings, version, monkeypatch) -> dg.JobDefinition:
    """The job of all assets, as a code location of that version has it."""
    with monkeypatch.context() as other:
        other.setattr(same_version, "VERSION", version)
        return build_definitions(settings).resolve_implicit_global_asset_job_def()


def refusal(job: dg.JobDefinition, instance) -> str:
    """What a run of the range says that fails in its first step."""
    result = job.execute_in_process(instance=instance, tags=RANGE, raise_on_error=False)
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    return failed.event_specific_data.user_failure_data.description


def test_a_process_older_than_what_asked_for_the_run_writes_nothing_and_says_what_to_upgrade(
    settings, instance, monkeypatch
):
    monkeypatch.setattr(same_version, "VERSION", "1.9.0")
    job = plan(settings, "1.10.0", monkeypatch)
    told = refusal(job, instance)
    assert told.startswith("dicom_assets 1.10.0 asked for this run")
    assert "the older 1.9.0" in told
    assert "pip install 'dicom-assets==1.10.0'" in told
    assert not any(build_lake(settings).open(table) for table in TABLES)


def test_a_run_that_an_older_version_asked_for_before_the_upgrade_is_executed(settings, instance, service, monkeypatch):
    monkeypatch.setattr(same_version, "VERSION", "1.10.0")
    job = plan(settings, "1.9.0", monkeypatch)
    assert job.execute_in_process(instance=instance, tags=RANGE).success
    check_law(settings, service)


def test_a_process_that_lacks_columns_of_what_asked_for_the_run_writes_nothing_and_names_them(
    environment, instance, monkeypatch, tmp_path
):
    file = tmp_path / "columns.toml"
    file.write_text('[columns]\nkvp = "KVP"\nprotocol = "ProtocolName"\n')
    job = plan(load_settings(environment | {"DICOM_EXTRA_COLUMNS": str(file)}), same_version.VERSION, monkeypatch)
    known = same_version.find_users_columns
    monkeypatch.setattr(same_version, "find_users_columns", lambda tables: known(tables)[:1])
    told = refusal(job, instance)
    assert "does not have: protocol (00181030). Rows would lack their values, so nothing was written" in told
    assert not any(build_lake(load_settings(environment)).open(table) for table in TABLES)


def test_a_process_with_all_columns_and_more_than_asked_for_the_run_executes_it(
    environment, instance, monkeypatch, tmp_path
):
    file = tmp_path / "columns.toml"
    file.write_text('[columns]\nkvp = "KVP"\n')
    job = plan(load_settings(environment | {"DICOM_EXTRA_COLUMNS": str(file)}), same_version.VERSION, monkeypatch)
    known = same_version.find_users_columns
    monkeypatch.setattr(same_version, "find_users_columns", lambda tables: [*known(tables), "newer (00181030)"])
    assert job.execute_in_process(instance=instance, partition_key=KEYS[0]).success


def test_a_range_that_does_not_fit_into_memory_is_stored_in_parts(settings, instance, service, monkeypatch):
    monkeypatch.setattr(memory, "_ENTRY_BYTES", 2**27)
    monkeypatch.setattr(memory, "_COPIES", 2**14)
    result = run(settings, instance, tags=RANGE)
    check_law(settings, service)
    for name in CHAIN:
        *_, last = result.asset_materializations_for_node(name)
        assert last.metadata["range"].value["commits"] > 1, name


def test_a_run_of_all_assets_reads_no_metadata_back(settings, instance, service, monkeypatch):
    def read(entries, table):
        raise AssertionError("metadata was read")

    monkeypatch.setattr(derive, "read_attributes", read)
    run(settings, instance, tags=RANGE)
    check_law(settings, service)


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


def materializations(instance, name: str) -> dict[str, dict]:
    """The newest metadata of each hour of an asset."""
    found = {}
    for key in KEYS:
        wanted = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=[key])
        (record,) = instance.fetch_materializations(wanted, limit=1).records
        found[key] = {key: value.value for key, value in record.asset_materialization.metadata.items()}
    return found


def test_hours_of_a_range_have_their_own_numbers(settings, instance, service):
    run(settings, instance, tags=RANGE)
    for hour, (key, metadata) in enumerate(materializations(instance, "change_feed").items()):
        start = START + timedelta(hours=hour)
        found = service.change_feed(start=start, end=start + timedelta(hours=1), limit=10**6, include_metadata=False)
        assert metadata["dagster/partition_row_count"] == len(found), key
        assert sum(value for name, value in metadata.items() if name.startswith("action/")) == len(found)
        assert sum(value for name, value in metadata.items() if name.startswith("state/")) == len(found)
        assert metadata.get("pages", 0) == -(-len(found) // 200)
        assert metadata["bytes_received"] > 0
    tables = read_tables(build_lake(settings))
    for name, rows in tables.items():
        of_hour = Counter(row["lastModifiedTimestamp"].hour for row in rows)
        for hour, metadata in enumerate(materializations(instance, name).values()):
            assert metadata["dagster/partition_row_count"] == of_hour[hour], (name, hour)


def test_an_hour_has_the_same_numbers_alone_as_in_a_range(settings, instance):
    run(settings, instance, tags=RANGE)
    of_range = {name: materializations(instance, name) for name in CHAIN}
    for key in KEYS:
        run(settings, instance, partition_key=key)
    for name in CHAIN:
        alone = materializations(instance, name)
        for key in KEYS[:-1]:
            ours, theirs = (numbers[key]["dagster/partition_row_count"] for numbers in (of_range[name], alone))
            assert ours == theirs, (name, key)


def test_numbers_of_a_whole_range_are_told_once(settings, instance):
    run(settings, instance, tags=RANGE)
    for name in CHAIN:
        *others, last = materializations(instance, name).values()
        assert all("range" not in metadata and "rows_inserted" not in metadata for metadata in others)
        assert last["range"]["hours"] == HOURS
        assert last["range"]["rows_inserted"] == last["dagster/row_count"] > 0
        assert last["range"].keys() >= {"rows_updated", "rows_deleted", "commits", "seconds/merge", "seconds/cpu"}
        assert "preview" not in last
    assert last.keys() >= {"table_version", "table_files", "table_size_bytes"}


def test_a_single_hour_tells_its_run_and_shows_some_rows(settings, instance, service):
    run(settings, instance, tags=RANGE)
    busiest = max(materializations(instance, "change_feed").items(), key=lambda item: item[1]["bytes_received"])[0]
    run(settings, instance, partition_key=busiest)
    feed = materializations(instance, "change_feed")[busiest]
    assert feed["entries"] == feed["dagster/partition_row_count"]
    assert feed.keys() >= {"pages", "retries", "bytes_received", "seconds/download", "seconds/parse", "seconds/merge"}
    entries = service.change_feed(limit=10**6)
    private = {value for entry in entries for value in (entry["studyInstanceUid"], entry["sopInstanceUid"])}
    for name in CHAIN:
        numbers = materializations(instance, name)[busiest]
        assert numbers.keys() >= {
            "rows_inserted", "rows_updated", "rows_deleted", "commits", "commits_lost", "bytes_written",
            "dagster/row_count", "dagster/partition_row_count", "table_version", "table_files", "table_size_bytes",
            "seconds/derive", "seconds/merge", "seconds/cpu",
        }  # fmt: skip
        preview = numbers["preview"]
        assert 3 <= len(preview.splitlines()) <= 7
        assert not any(value in preview for value in private)


EVENT_BYTES = 2600
"""Of which Dagster's own are about 1,600: ids, tags, and the lineage of data versions."""


def test_events_of_a_range_stay_small(settings, instance):
    result = run(settings, instance, tags=RANGE)
    sizes = {}
    for event in instance.all_logs(result.run_id):
        if event.is_dagster_event and event.dagster_event.is_step_materialization:
            sizes[event.dagster_event.asset_key.path[-1], event.dagster_event.partition] = len(
                dg.serialize_value(event)
            )
    assert len(sizes) == len(CHAIN) * HOURS
    assert max(size for (_, key), size in sizes.items() if key != KEYS[-1]) < EVENT_BYTES
    assert max(sizes.values()) < 2 * EVENT_BYTES
    assert max(size for (name, key), size in sizes.items() if name != "change_feed" and key != KEYS[-1]) < 2000


def test_checks_run_with_the_assets_and_pass(settings, instance):
    evaluations = run(settings, instance, tags=RANGE).get_asset_check_evaluations()
    assert sorted((each.asset_key.path[-1], each.check_name, each.passed) for each in evaluations) == [
        ("change_feed", "feed_complete", True),
        ("change_feed", "metadata_readable", True),
        ("file_index", "agrees_with_instance", True),
        ("instance", "agrees_with_change_feed", True),
        ("instance", "values_converted", True),
        ("series", "agrees_with_instance", True),
        ("study", "agrees_with_instance", True),
    ]


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
    home = create_home(tmp_path / "home")
    finished = subprocess.run(
        [*COMMAND, option, KEYS[first] if first == last else f"{KEYS[first]}...{KEYS[last]}"],
        env=os.environ | environment | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
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
        home = create_home(tmp_path / f"home-{place}")
        processes.append(
            subprocess.Popen(
                [*COMMAND, "--partition-range", f"{KEYS[first]}...{KEYS[last]}"],
                env=os.environ | environment | {"DAGSTER_HOME": str(home)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    check_law(load_settings(environment), service)
