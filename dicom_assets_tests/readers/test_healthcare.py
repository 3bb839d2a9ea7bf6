"""`DICOM_TABLE_PROFILE=healthcare-data-solutions`, from Dagster's runs to a query in real Apache Spark."""

from collections import Counter
from datetime import timedelta

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.definitions import build_definitions
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import START, environment_of, partition_keys, range_tags
from dicom_assets_tests.readers.snippets import execute, snippets

HOURS = 10
NAME = HEALTHCARE_INSTANCE.name
KEYS = partition_keys(HOURS)
ALL = range_tags(KEYS)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(seed=1, file_store=tmp_path_factory.mktemp("files")) as service:
        write_history(service, start=START, hours=HOURS, instances=260, seed=39)
        yield service


@pytest.fixture(scope="module")
def url(service):
    with serve(service) as url:
        yield url


@pytest.fixture
def environment(url, tmp_path) -> dict[str, str]:
    return {
        **environment_of(url, HOURS),
        "DICOM_STORAGE_URL": str(tmp_path / "data"),
    }


@pytest.fixture
def settings(environment) -> Settings:
    return load_settings(environment | {"DICOM_TABLE_PROFILE": "healthcare-data-solutions"})


def run(settings: Settings, *names: str, **how) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(name) for name in names] or None
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=selection, **how)
    assert result.success
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
    return result


def path(settings: Settings) -> str:
    return build_lake(settings).uri(HEALTHCARE_INSTANCE)


def live(service) -> list[dict]:
    return reference.fold(service.change_feed(limit=10**6))["instance"]


def keys(rows: list[dict], names: tuple[str, ...]) -> list[tuple]:
    return sorted(tuple(row[name] for name in names) for row in rows)


def test_without_the_profile_there_is_no_such_asset(environment):
    keys_ = build_definitions(load_settings(environment)).resolve_asset_graph().get_all_asset_keys()
    assert {key.path[-1] for key in keys_} == {table.name for table in TABLES}


def test_with_the_profile_the_daily_upkeep_knows_the_table(settings):
    (job,) = [job for job in build_definitions(settings).resolve_all_job_defs() if job.name == "maintain_lake"]
    assert {node.name for node in job.nodes} == {f"maintain_{table.name}" for table in (*TABLES, HEALTHCARE_INSTANCE)}


def test_spark_asks_the_map_and_the_lower_case_names(settings, service, spark, monkeypatch):
    monkeypatch.setattr(data_file, "JOINED_FILES", 3)
    for key in KEYS:
        run(settings, partition_key=key)
    DeltaTable(path(settings)).optimize.compact()
    first = live(service)[0]
    correction = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Größe^Jörg"}]}}
    at = START + timedelta(hours=HOURS - 1, minutes=59)
    service.update(first["studyInstanceUid"], correction, partition=first["partitionName"], at=at)
    run(settings, partition_key=KEYS[-1])

    (snippet,) = snippets("healthcare")["Use it"]
    names = execute(snippet, {"spark": spark, "lake": path(settings).removesuffix(f"/{NAME}")})
    assert Counter({row["modality"]: row["instances"] for row in names["by_modality"].toArrow().to_pylist()}) == (
        Counter(row["modality"] for row in live(service))
    )
    found = spark.sql(
        f"SELECT partitionName, studyinstanceuid, seriesinstanceuid, sopinstanceuid, filepath FROM {NAME} "
        "WHERE studydate_formatted = DATE '2026-03-01' AND modality = metadata['00080060'].Value[0]"
    )
    rows = [{**row, "studyDate": str(row["studyDate"])} for row in live(service)]
    expected = [row for row in rows if row["studyDate"] == "2026-03-01"]
    assert keys(found.toArrow().to_pylist(), tuple(found.columns)) == keys(expected, (*reference.KEY, "filePath"))
    renamed = spark.sql(
        f"SELECT DISTINCT studyinstanceuid, get_json_object(metadata['00100010'].Value[0], '$.Alphabetic') AS name, "
        f"metadata['00100010'].vr AS vr FROM {NAME} WHERE patientname = 'Größe^Jörg'"
    )
    assert [tuple(row) for row in renamed.collect()] == [(first["studyInstanceUid"], "Größe^Jörg", "PN")]


def test_profile_turned_on_later_fills_the_table_from_the_stored_feed(environment, settings, service):
    run(load_settings(environment), tags=ALL)
    lake = build_lake(settings)
    before = [lake.version(table) for table in TABLES]
    without_service = load_settings(
        {name: value for name, value in environment.items() if name != "DICOM_SERVICE_URL"}
        | {"DICOM_TABLE_PROFILE": "healthcare-data-solutions"}
    )
    run(without_service, NAME, tags=ALL)
    table = DeltaTable(path(settings))
    found = pa.table(QueryBuilder().register("it", table).execute("SELECT * FROM it")).to_pylist()
    assert keys(found, HEALTHCARE_INSTANCE.key) == keys(live(service), reference.KEY)
    assert (table.protocol().min_reader_version, table.protocol().min_writer_version) == (1, 2)
    assert [lake.version(table) for table in TABLES] == before
    run(settings, tags=ALL)
    assert DeltaTable(path(settings)).version() == table.version()
