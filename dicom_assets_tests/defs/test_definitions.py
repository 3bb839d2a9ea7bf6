"""The code location: it loads without any setting, and what Dagster is told stays as it is."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.services import load_services
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.definitions import build_definitions


@pytest.fixture
def definitions(tmp_path):
    return build_definitions(load_settings({"DICOM_STORAGE_URL": str(tmp_path)}))


def nodes(definitions):
    graph = definitions.resolve_asset_graph()
    return {node.key.to_user_string(): node for node in graph.asset_nodes}


def test_definitions_load_without_any_setting():
    definitions = build_definitions(load_settings({}))
    dg.Definitions.validate_loadable(definitions)


ADDITIONS = {
    "a service": {"DICOM_SERVICE_URL": "https://dicom.example", "DICOM_START_TIME": "2026-03-01T00:00Z"},
    "its files": {"DICOM_FILE_SYSTEM_URL": "https://files.dfs.core.windows.net/ahds"},
    "a lakehouse": {
        "DICOM_STORAGE_URL": "https://tables.dfs.core.windows.net",
        "DICOM_FABRIC_WORKSPACE_ID": "11111111-0000-0000-0000-000000000000",
        "DICOM_FABRIC_LAKEHOUSE_ID": "22222222-0000-0000-0000-000000000000",
        "DICOM_FABRIC_CONNECTION_ID": "33333333-0000-0000-0000-000000000000",
    },
    "columns": {"DICOM_EXTRA_COLUMNS": str(Path(__file__).parents[2] / "examples/columns.toml")},
    "a profile": {"DICOM_TABLE_PROFILE": "healthcare-data-solutions"},
    "Spark": {"DICOM_MERGE_ENGINE": "spark", "DICOM_SPARK_REMOTE": "sc://localhost"},
    "alerts": {"DICOM_ALERT_WEBHOOK_URL": "https://alerts.example", "DICOM_DAGSTER_URL": "https://dagster.example"},
    "a pool": {"DICOM_CHANGE_FEED_POOL": "dicom_service"},
    "no sensors": {"DICOM_SENSOR_INTERVAL_SECONDS": "0", "DICOM_CATCH_UP_RUNS": "0"},
}
"""Settings by what they add to the definitions."""

SERVICES = """
tables = "{tables}"
[services.north]
service_url = "https://north.example"
start_time = "2026-03-01T00:00Z"
[services.south]
service_url = "https://south.example"
start_time = "2026-06-01T00:00Z"
file_system_url = "https://south.dfs.core.windows.net/ahds"
"""


@pytest.mark.parametrize("services", [None, "own", "shared"])
@pytest.mark.parametrize("names", [*([name] for name in ADDITIONS), list(ADDITIONS)], ids=" and ".join)
def test_dagster_loads_all_there_is_whatever_the_settings_add(names, services, tmp_path):
    env = {"DICOM_STORAGE_URL": str(tmp_path)}
    for name in names:
        env |= ADDITIONS[name]
    if services:
        env |= {"DICOM_SERVICES": str(tmp_path / "services.toml")}
        of_services = {"DICOM_SERVICE_URL", "DICOM_START_TIME", "DICOM_FILE_SYSTEM_URL"}
        env = {name: value for name, value in env.items() if name not in of_services}
        (tmp_path / "services.toml").write_text(SERVICES.format(tables=services))
    repository = build_definitions(*load_services(env)).get_repository_def()
    repository.load_all_definitions()
    assert ("fabric_shortcuts" in "".join(repository.job_names)) == ("a lakehouse" in names)


def test_assets_and_what_they_are_made_from(definitions):
    parents = {
        name: sorted(key.to_user_string() for key in node.parent_keys) for name, node in nodes(definitions).items()
    }
    assert parents == {
        "change_feed": [],
        "instance": ["change_feed"],
        "series": ["instance"],
        "study": ["instance", "series"],
        "file_index": ["instance"],
    }


def test_assets_are_hourly_in_utc_one_run_per_range_one_writer_at_a_time(definitions):
    for name, node in nodes(definitions).items():
        hours = node.partitions_def
        assert isinstance(hours, dg.TimeWindowPartitionsDefinition), name
        assert (hours.timezone, hours.fmt, hours.cron_schedule) == ("UTC", "%Y-%m-%d-%H:%M", "0 * * * *"), name
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), name
        assert node.pools == {"dicom_lake"}, name
        assert node.group_name == "dicom", name


def test_reading_the_service_has_a_pool_of_its_own_where_the_settings_name_one(tmp_path):
    env = {"DICOM_STORAGE_URL": str(tmp_path), "DICOM_CHANGE_FEED_POOL": "dicom_service"}
    pools = {name: node.pools for name, node in nodes(build_definitions(load_settings(env))).items()}
    assert pools.pop("change_feed") == {"dicom_service"}
    assert set(map(frozenset, pools.values())) == {frozenset({"dicom_lake"})}


def test_a_run_is_one_process(definitions):
    assert definitions.executor is dg.in_process_executor
    assert definitions.resolve_job_def("hours").executor_def is dg.in_process_executor


def test_partitions_begin_and_end_where_the_settings_say(tmp_path):
    env = {
        "DICOM_STORAGE_URL": str(tmp_path),
        "DICOM_START_TIME": "2026-03-01T01:30+01:00",
        "DICOM_END_TIME": "2026-03-01T03:00Z",
    }
    hours = nodes(build_definitions(load_settings(env)))["change_feed"].partitions_def
    now = datetime(2026, 4, 1, tzinfo=UTC)
    with dg.partition_loading_context(effective_dt=now):
        assert list(hours.get_partition_keys()) == ["2026-03-01-00:00", "2026-03-01-01:00", "2026-03-01-02:00"]


def test_every_table_shows_its_columns_and_place(definitions, tmp_path):
    by_name = nodes(definitions)
    for table in TABLES:
        metadata = by_name[table.name].metadata
        columns = metadata["dagster/column_schema"].columns
        assert [column.name for column in columns] == list(table.schema.names)
        assert metadata["dagster/uri"] == str(tmp_path / "dicom" / table.name)
    tags = {column.name: column.tags for column in by_name["study"].metadata["dagster/column_schema"].columns}
    assert tags["studyDate"] == {"dicom_tag": "00080020", "from": "instance.studyDate"}
    assert tags["modalitiesInStudy"] == {"from": "instance.modality"}
    feed = {column.name: column.tags for column in by_name["change_feed"].metadata["dagster/column_schema"].columns}
    assert feed["sequence"] == {}


def test_kinds_owners_and_links(definitions):
    by_name = nodes(definitions)
    assert {name: node.kinds for name, node in by_name.items()} == {
        "change_feed": {"azure", "deltalake", "dicom"},
        **{name: {"deltalake", "dicom"} for name in ("instance", "series", "study", "file_index")},
    }
    for node in by_name.values():
        assert node.owners == ["team:imaging-data"]
        links = {name: value.value for name, value in node.metadata.items() if name.startswith("docs")}
        assert links["docs"].startswith("https://")
        assert all(isinstance(node.metadata[name], dg.UrlMetadataValue) for name in links)


def test_links_to_our_documents_lead_somewhere(definitions):
    root = Path(__file__).parents[2]
    for node in nodes(definitions).values():
        path, _, anchor = node.metadata["docs"].value.partition("/blob/main/")[2].partition("#")
        headings = re.findall(r"^#+ (.*)$", (root / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_descriptions_say_what_a_row_is(definitions):
    for name, node in nodes(definitions).items():
        assert node.description.startswith("One row is one "), name


def test_assets_are_overdue_after_an_hour_and_three_delays(definitions):
    for node in nodes(definitions).values():
        assert node.freshness_policy.fail_window.to_timedelta() == timedelta(hours=1, minutes=45)


def test_checks_of_every_asset_and_which_block(definitions):
    graph = definitions.resolve_asset_graph()
    checks = {f"{key.asset_key.to_user_string()}.{key.name}": graph.get(key).blocking for key in graph.asset_check_keys}
    assert checks == {
        "change_feed.feed_complete": True,
        "change_feed.metadata_readable": False,
        "instance.agrees_with_change_feed": True,
        "instance.values_converted": False,
        "series.agrees_with_instance": False,
        "study.agrees_with_instance": False,
        "file_index.agrees_with_instance": False,
    }


def test_materialising_without_a_service_names_the_setting_and_the_demo(definitions, tmp_path):
    job = definitions.resolve_implicit_global_asset_job_def()
    with (
        dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance,
        pytest.raises(dg.Failure, match=r"DICOM_SERVICE_URL is not set.*`make demo`"),
    ):
        job.execute_in_process(instance=instance, partition_key="2026-03-01-00:00")


ACCOUNT = {"DICOM_STORAGE_URL": "https://account.dfs.core.windows.net", "DICOM_AUTHENTICATION": "none"}


@pytest.mark.parametrize(
    ("variable", "value", "option"),
    [("AZURE_STORAGE_ACCOUNT_KEY", "a2V5", "account_key"), ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=a", "sas_token")],
)
def test_lake_in_an_account_is_asked_for_with_its_options(variable, value, option):
    storage = build_lake(load_settings(ACCOUNT | {variable: value})).storage
    assert storage.uri("instance") == "abfss://dicom@account.dfs.core.windows.net/instance"
    assert storage.options() == {"account_name": "account", option: value.removeprefix("?")}


def test_key_or_sas_token_is_used_where_an_identity_asks_the_service():
    managed = {"DICOM_AUTHENTICATION": "managed_identity", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
    options = build_lake(load_settings(ACCOUNT | managed)).storage.options()
    assert options == {"account_name": "account", "account_key": "a2V5"}
