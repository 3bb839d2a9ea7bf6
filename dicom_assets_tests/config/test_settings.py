import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from dicom_assets.config import settings as settings_module
from dicom_assets.config.settings import (
    FIRST_HOUR_WITHOUT_SERVICE,
    Settings,
    describe_settings,
    find_host,
    load_settings,
)
from dicom_assets.core.columns.schema import TABLES, Grain
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.identity.credentials import Authentication, Host
from dicom_assets_tests.processes import clean_environment

SERVICE = {
    "DICOM_SERVICE_URL": "https://ws-dicom.dicom.azurehealthcareapis.com",
    "DICOM_START_TIME": "2026-03-01T00:00Z",
}


def load(**env: str) -> Settings:
    return load_settings(env)


def refusal(**env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(env)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    message = str(caught.value)
    for jargon in ("Value error", "pydantic", "validation error", "input_value", "NoneType"):
        assert jargon not in message
    return message


# Defaults


def test_empty_environment_loads_with_the_documented_defaults():
    settings = load()
    assert settings.service_url is None
    assert settings.authentication is Authentication.DEFAULT
    assert settings.token_scope == "https://dicom.healthcareapis.azure.com/.default"
    assert settings.api_version == 2
    assert settings.batch_size == 200
    assert settings.max_concurrent_requests == 8
    assert settings.start_time is settings.end_time is None
    assert settings.first_hour == FIRST_HOUR_WITHOUT_SERVICE == datetime(2026, 1, 1, tzinfo=UTC)
    assert settings.window_delay_minutes == 15
    assert settings.lake_url == "data/dicom"
    assert settings.table_paths == {table.name: table.name for table in (*TABLES, HEALTHCARE_INSTANCE)}
    assert settings.retention_hours == 720
    assert settings.file_url_prefix is None
    assert settings.extra_columns == ()


def test_empty_and_blank_count_as_unset():
    assert (
        load(**{row.variable: "  " if number % 2 else "" for number, row in enumerate(describe_settings())}) == load()
    )


def test_spaces_around_a_value_do_not_count():
    assert load(DICOM_BATCH_SIZE=" 50\n").batch_size == 50


def test_environment_of_the_process_is_the_default(monkeypatch):
    for row in describe_settings():
        monkeypatch.delenv(row.variable, raising=False)
    monkeypatch.setenv("DICOM_BATCH_SIZE", "17")
    assert load_settings().batch_size == 17
    assert load_settings({}).batch_size == 200


def test_settings_can_be_built_by_name():
    assert Settings(batch_size=5, start_time=datetime(2026, 3, 1, 5, 30, tzinfo=UTC)).first_hour.hour == 5


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load().batch_size = 5


# The host


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        (["IDENTITY_ENDPOINT"], Host.AZURE),
        (["MSI_ENDPOINT"], Host.AZURE),
        (["WEBSITE_INSTANCE_ID"], Host.AZURE),
        (["CONTAINER_APP_NAME", "KUBERNETES_SERVICE_HOST"], Host.AZURE),
        (["KUBERNETES_SERVICE_HOST"], Host.KUBERNETES),
        (["AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT"], Host.KUBERNETES),
    ],
)
@pytest.mark.parametrize("has_terminal", [True, False])
def test_host_is_known_by_its_variables(variables, host, has_terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", Terminal(has_terminal))
    monkeypatch.setattr(settings_module, "_ASSET_TAG_FILE", tmp_path / "absent")
    assert find_host(dict.fromkeys(variables, "x")) is host
    assert find_host(dict.fromkeys(variables, "")) is (Host.TERMINAL if has_terminal else Host.UNKNOWN)


class Terminal:
    def __init__(self, has_terminal: bool) -> None:
        self.isatty = lambda: has_terminal


@pytest.mark.parametrize(
    ("tag", "has_terminal", "host"),
    [
        (b"7783-7084-3265-9085-8269-3286-77\n", True, Host.AZURE),
        (b"No Asset Tag\n", True, Host.TERMINAL),
        (b"\xff", True, Host.TERMINAL),
        (None, True, Host.TERMINAL),
        (None, False, Host.UNKNOWN),
    ],
)
def test_host_is_known_by_its_tag_or_terminal(tag, has_terminal, host, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", Terminal(has_terminal))
    if tag is not None:
        (tmp_path / "tag").write_bytes(tag)
    monkeypatch.setattr(settings_module, "_ASSET_TAG_FILE", tmp_path / "tag")
    assert find_host({}) is host


def test_settings_know_the_host_of_the_process(monkeypatch):
    monkeypatch.setenv("MSI_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert load().host is load(DICOM_BATCH_SIZE="5").host is Host.AZURE
    assert load(AZURE_FEDERATED_TOKEN_FILE="x").host is Host.KUBERNETES


# The service


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://ws-dicom.dicom.azurehealthcareapis.com/", "https://ws-dicom.dicom.azurehealthcareapis.com"),
        ("https://gateway.example:8443/dicom//", "https://gateway.example:8443/dicom"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://example.org/v2x", "https://example.org/v2x"),
    ],
)
def test_service_url_is_kept_without_its_last_slash(given, kept):
    settings = load(**SERVICE | {"DICOM_SERVICE_URL": given})
    assert settings.service_url == settings.require_service_url() == kept


def test_missing_service_url_names_the_variable_and_the_demo():
    with pytest.raises(SettingsError, match=r"DICOM_SERVICE_URL.*make demo"):
        load().require_service_url()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ws.dicom.azurehealthcareapis.com", ["not an http(s) URL", "such as https://"]),
        ("ftp://example.org", ["not an http(s) URL"]),
        ("https://", ["not an http(s) URL"]),
        ("https://example.org:port", ["is not a URL"]),
        ("https://[::1", ["is not a URL"]),
        ("http://10.0.0.5:8080", ["plain http to 10.0.0.5", "patient data", "https://"]),
        ("http://dicom.example", ["plain http"]),
        ("https://example.org/v2", ["has /v2", "DICOM_API_VERSION"]),
        ("https://example.org/v2/changefeed", ["has /v2"]),
        ("https://example.org/changefeed/", ["has /changefeed"]),
    ],
)
@pytest.mark.parametrize("authentication", ["default", "none"])
def test_service_url_that_cannot_be_used_is_explained(url, told, authentication):
    message = refusal(**SERVICE | {"DICOM_SERVICE_URL": url, "DICOM_AUTHENTICATION": authentication})
    assert message.startswith("1 setting cannot be used:\n- DICOM_SERVICE_URL: ")
    for words in told:
        assert words in message


@pytest.mark.parametrize("name", ["DICOM_SERVICE_URL", "DICOM_STORAGE_URL", "DICOM_FILE_SYSTEM_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden@account.dfs.core.windows.net/x",
        "https://hidden@account.dfs.core.windows.net/x",
        "https://account.dfs.core.windows.net/x?sig=hidden",
        "https://account.dfs.core.windows.net/x#hidden",
        "abfss://x:hidden@account.dfs.core.windows.net",
        "https://hidden:hidden:hidden/x",
    ],
)
def test_secret_in_a_url_is_refused_and_not_echoed(name, url):
    message = refusal(**SERVICE | {name: url})
    assert f"- {name}: " in message
    assert "hidden" not in message


@pytest.mark.parametrize("way", [way.value for way in Authentication if way is not Authentication.CLIENT_SECRET])
def test_ways_to_sign_in(way):
    assert load(DICOM_AUTHENTICATION=way.upper()).authentication == way


def test_unknown_way_to_sign_in_lists_the_known():
    message = refusal(DICOM_AUTHENTICATION="password")
    assert "'password'" in message
    assert all(way in message for way in Authentication)


def test_client_secret_is_complete_and_hidden():
    identity = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hidden"}
    settings = load(DICOM_AUTHENTICATION="client_secret", **identity)
    assert settings.azure_client_secret is not None
    assert settings.azure_client_secret.get_secret_value() == "hidden"
    assert "hidden" not in repr(settings)
    assert "hidden" not in settings.model_dump_json()


@pytest.mark.parametrize("missing", ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"])
def test_client_secret_names_what_is_missing(missing):
    identity = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hidden"}
    del identity[missing]
    message = refusal(DICOM_AUTHENTICATION="client_secret", **identity)
    assert f"needs {missing}, unset now" in message
    assert "hidden" not in message


@pytest.mark.parametrize(("given", "kept"), [("2", 2), ("v2", 2), ("10", 10)])
def test_api_version(given, kept):
    assert load(DICOM_API_VERSION=given).api_version == kept


@pytest.mark.parametrize("given", ["1", "v1"])
def test_api_version_1_says_why_not(given):
    assert "`offset` is a sequence" in refusal(DICOM_API_VERSION=given)


@pytest.mark.parametrize("given", ["0", "-2", "2.0", "two", "12345"])
def test_api_version_that_is_none(given):
    assert f"DICOM_API_VERSION: '{given}' is not a version" in refusal(DICOM_API_VERSION=given)


@pytest.mark.parametrize("scope", ["https://dicom.healthcareapis.azure.com", "/.default", "a b/.default"])
def test_scope_ends_in_default(scope):
    assert "/.default" in refusal(DICOM_TOKEN_SCOPE=scope)


NUMBERS = [
    ("DICOM_BATCH_SIZE", 1, 200),
    ("DICOM_MAX_CONCURRENT_REQUESTS", 1, 64),
    ("DICOM_WINDOW_DELAY_MINUTES", 0, 10_080),
    ("DICOM_MAX_MEMORY_MB", 768, 1_000_000),
    ("DICOM_RETENTION_HOURS", 1, 87_600),
]


@pytest.mark.parametrize(("name", "low", "high"), NUMBERS)
def test_numbers_have_bounds(name, low, high):
    field = name.removeprefix("DICOM_").lower()
    assert [getattr(load(**{name: str(number)}), field) for number in (low, high)] == [low, high]
    for number in (low - 1, high + 1):
        assert f"- {name}: {number} is not between {low} and {high}: " in refusal(**{name: str(number)})
    for text in ("ten", "1.5", "1e2", "0x10", "9" * 5000):
        message = refusal(**{name: text})
        assert "is not a whole number. Set a number from" in message
        assert len(message) < 300


# Times


@pytest.mark.parametrize(
    ("given", "hour"),
    [
        ("2026-03-01T05:00Z", datetime(2026, 3, 1, 5, tzinfo=UTC)),
        ("2026-03-01T05:59:59.9999999Z", datetime(2026, 3, 1, 5, tzinfo=UTC)),
        ("2026-03-01T05:30:00+01:00", datetime(2026, 3, 1, 4, tzinfo=UTC)),
        ("2026-03-01T05:15+05:30", datetime(2026, 2, 28, 23, tzinfo=UTC)),
    ],
)
def test_times_are_taken_down_to_their_hour_in_utc(given, hour):
    assert load(DICOM_START_TIME=given).first_hour == hour
    assert load(DICOM_END_TIME=given).end_time == hour
    assert load(DICOM_START_TIME=given).first_hour.tzinfo is UTC


@pytest.mark.parametrize("name", ["DICOM_START_TIME", "DICOM_END_TIME"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("2026-03-01T05:00", "no time zone"),
        ("2026-03-01", "no time zone"),
        ("yesterday", "is not a time"),
        ("0001-01-01T00:00+14:00", "is not a time"),
    ],
)
def test_time_that_cannot_be_used_is_explained(name, given, told):
    message = refusal(**{name: given})
    assert message.startswith(f"1 setting cannot be used:\n- {name}: '{given}' ")
    assert told in message
    assert "such as 2026-03-01T00:00Z" in message


def test_service_needs_a_start():
    message = refusal(DICOM_SERVICE_URL=SERVICE["DICOM_SERVICE_URL"])
    assert "- DICOM_START_TIME: is not set, but DICOM_SERVICE_URL is." in message


@pytest.mark.parametrize("end", ["2026-03-01T05:59Z", "2026-03-01T05:00Z", "2026-02-01T00:00Z"])
def test_end_is_an_hour_after_the_start(end):
    message = refusal(DICOM_START_TIME="2026-03-01T05:10Z", DICOM_END_TIME=end)
    assert "- DICOM_END_TIME: " in message
    assert "not after the first hour, 2026-03-01T05:00Z" in message


def test_end_is_after_the_first_hour_without_a_start():
    assert "2026-01-01T00:00Z" in refusal(DICOM_END_TIME="2025-12-31T00:00Z")


# The lake


@pytest.mark.parametrize(
    ("url", "lake", "account", "endpoint"),
    [
        ("./data", "data/lake", None, None),
        ("/srv/lake/", "/srv/lake/lake", None, None),
        ("file:///srv/a%20b", "/srv/a b/lake", None, None),
        ("~/data", str(Path("~/data/lake").expanduser()), None, None),
        ("https://acc.dfs.core.windows.net/", "abfss://lake@acc.dfs.core.windows.net", "acc", None),
        ("https://ACC.dfs.core.windows.net", "abfss://lake@acc.dfs.core.windows.net", "acc", None),
        ("abfss://acc.dfs.core.windows.net", "abfss://lake@acc.dfs.core.windows.net", "acc", None),
        ("https://acc.dfs.core.chinacloudapi.cn", "abfss://lake@acc.dfs.core.chinacloudapi.cn", "acc", None),
        (
            "http://127.0.0.1:10000/mylake/",
            "abfss://lake@mylake.dfs.core.windows.net",
            "mylake",
            "http://127.0.0.1:10000/mylake",
        ),
    ],
)
def test_lake_lies_in_a_folder_an_account_or_an_emulator(url, lake, account, endpoint):
    settings = load(DICOM_STORAGE_URL=url, DICOM_CONTAINER_NAME="lake")
    assert settings.lake_url == lake
    assert (settings.storage_account, settings.storage_endpoint) == (account, endpoint)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://acc.blob.core.windows.net", "dfs, not blob"),
        ("https://example.org", "neither a folder nor a storage account"),
        ("s3://bucket", "neither a folder nor a storage account"),
        ("http://acc.dfs.core.windows.net", "neither a folder nor a storage account"),
        ("http://127.0.0.1:10000", "neither a folder nor a storage account"),
        ("https://acc.dfs.core.windows.net/dicom", "DICOM_CONTAINER_NAME"),
        ("abfss://dicom@acc.dfs.core.windows.net", "DICOM_CONTAINER_NAME"),
        ("file://server/share", "another machine"),
    ],
)
def test_storage_url_that_cannot_be_used_is_explained(url, told):
    message = refusal(DICOM_STORAGE_URL=url)
    assert "- DICOM_STORAGE_URL: " in message
    assert told in message


ONELAKE = [
    "https://onelake.dfs.fabric.microsoft.com",
    "https://ONELAKE.dfs.fabric.microsoft.com/",
    "https://onelake.blob.fabric.microsoft.com",
    "https://westeurope-onelake.dfs.fabric.microsoft.com",
    "https://api.onelake.fabric.microsoft.com",
    "https://7c09f7b8d05f4a0d9534c3cad6e25525.z7c.dfs.fabric.microsoft.com",
    "https://onelake.dfs.pbidedicated.windows.net",
    "https://onelake.dfs.fabric.microsoft.com/My%20Workspace/lake.Lakehouse/Tables",
    "abfss://workspace@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Tables",
]


@pytest.mark.parametrize("url", ONELAKE)
def test_onelake_is_refused_as_storage_with_what_to_do_instead(url):
    message = refusal(DICOM_STORAGE_URL=url)
    for words in ("- DICOM_STORAGE_URL: ", "OneLake", "deleted", "dfs.core.windows.net", "fabric-shortcuts"):
        assert words in message


@pytest.mark.parametrize("url", ONELAKE)
def test_onelake_has_no_files_of_the_service(url):
    message = refusal(DICOM_FILE_SYSTEM_URL=url)
    for words in ("- DICOM_FILE_SYSTEM_URL: ", "OneLake", "shortcuts", "dfs.core.windows.net"):
        assert words in message


@pytest.mark.parametrize("account", ["onelake", "fabric", "fabriclake"])
def test_account_may_be_called_like_onelake(account):
    settings = load(
        DICOM_STORAGE_URL=f"https://{account}.dfs.core.windows.net",
        DICOM_FILE_SYSTEM_URL=f"https://{account}.dfs.core.windows.net/images",
    )
    assert settings.storage_account == account


@pytest.mark.parametrize("name", ["abc", "a-b", "0-9", "a" * 63])
def test_container_names_that_azure_allows(name):
    assert load(DICOM_CONTAINER_NAME=name).container_name == name


@pytest.mark.parametrize("name", ["ab", "a" * 64, "Dicom", "-abc", "abc-", "a--b", "a_b", "a/b", "..", "äbc"])
def test_container_names_that_azure_refuses(name):
    assert "- DICOM_CONTAINER_NAME: " in refusal(DICOM_CONTAINER_NAME=name)


@pytest.mark.parametrize("name", ["dicom service", "dicom-service", "a,b"])
def test_pool_names_that_dagster_refuses(name):
    assert "- DICOM_CHANGE_FEED_POOL: " in refusal(DICOM_CHANGE_FEED_POOL=name)


def test_table_paths_may_have_folders():
    settings = load(DICOM_INSTANCE_TABLE_PATH="silver/instance", DICOM_SERIES_TABLE_PATH="silver/series")
    assert settings.table_paths["instance"] == "silver/instance"
    assert list(settings.table_paths) == [table.name for table in (*TABLES, HEALTHCARE_INSTANCE)]


@pytest.mark.parametrize("path", ["/instance", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "abfss://a/b"])
def test_table_path_stays_inside_the_container(path):
    assert "- DICOM_INSTANCE_TABLE_PATH: " in refusal(DICOM_INSTANCE_TABLE_PATH=path)


@pytest.mark.parametrize("path", ["instance", "Instance", "instance/deep"])
def test_tables_do_not_share_a_folder(path):
    message = refusal(DICOM_STUDY_TABLE_PATH=path)
    assert f"- DICOM_STUDY_TABLE_PATH: '{path}' overlaps 'instance', the path in DICOM_INSTANCE_TABLE_PATH" in message


def test_table_does_not_hold_another():
    assert "- DICOM_FILE_INDEX_TABLE_PATH: 'a' overlaps 'a/b'" in refusal(
        DICOM_STUDY_TABLE_PATH="a/b", DICOM_FILE_INDEX_TABLE_PATH="a"
    )


ACCOUNT = {"DICOM_STORAGE_URL": "https://lake.dfs.core.windows.net"}
SAS = "sv=2021-12-02&sp=racwdl&sig=hidden%3D"


def test_emulator_may_speak_https():
    settings = load(DICOM_STORAGE_URL="https://127.0.0.1:10000/mylake/")
    assert (settings.storage_account, settings.storage_endpoint) == ("mylake", "https://127.0.0.1:10000/mylake")


@pytest.mark.parametrize("given", [SAS, f"?{SAS}"])
def test_key_and_sas_token_are_hidden(given):
    token = load(**ACCOUNT, AZURE_STORAGE_SAS_TOKEN=given)
    key = load(**ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY="aGlkZGVu")
    assert token.azure_storage_sas_token.get_secret_value() == SAS
    assert key.azure_storage_account_key.get_secret_value() == "aGlkZGVu"
    assert "hidden" not in repr(token)
    assert "aGlkZGVu" not in repr(key)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AZURE_STORAGE_ACCOUNT_KEY", "hidden key!", "is not a key: it is not base64, so it was not copied whole."),
        ("AZURE_STORAGE_ACCOUNT_KEY", "hidden", "is not a key: it is not base64, so it was not copied whole."),
        ("AZURE_STORAGE_SAS_TOKEN", "hidden", "is not a SAS token: it has no sv and no sig."),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=1&se=hidden", "is not a SAS token: it has no sig."),
        ("AZURE_STORAGE_SAS_TOKEN", "https://lake.blob.core.windows.net/dicom?sv=1", "is not a SAS token: it has no"),
    ],
)
def test_key_or_sas_token_that_is_none_is_explained_and_not_echoed(name, value, told):
    message = refusal(**ACCOUNT, **{name: value})
    assert f"- {name}: {told}" in message
    assert "hidden" not in message


def test_key_and_sas_token_exclude_each_other():
    message = refusal(**ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY="aGlkZGVu", AZURE_STORAGE_SAS_TOKEN=SAS)
    assert "- AZURE_STORAGE_SAS_TOKEN: is set, and AZURE_STORAGE_ACCOUNT_KEY too. Unset one" in message
    assert "hidden" not in message


def test_account_needs_something_to_sign_in_with():
    message = refusal(**ACCOUNT, DICOM_AUTHENTICATION="none")
    assert "DICOM_AUTHENTICATION=none: there is nothing to sign in to the account" in message
    for way in ({"AZURE_STORAGE_ACCOUNT_KEY": "aGlkZGVu"}, {"AZURE_STORAGE_SAS_TOKEN": SAS}):
        load(**ACCOUNT, DICOM_AUTHENTICATION="none", **way)
    load(**ACCOUNT)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://login.microsoftonline.us/", "https://login.microsoftonline.us"),
        ("login.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
    ],
)
def test_authority_is_a_host(given, kept):
    assert load(AZURE_AUTHORITY_HOST=given).azure_authority_host == kept


@pytest.mark.parametrize("url", ["http://127.0.0.1:8443", "https://login.microsoftonline.us/tenant", "https://"])
def test_authority_is_asked_over_https_alone(url):
    assert "- AZURE_AUTHORITY_HOST: is not an https URL of a host alone." in refusal(AZURE_AUTHORITY_HOST=url)


# The DICOM files


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://acc.dfs.core.windows.net/files", "abfss://files@acc.dfs.core.windows.net"),
        ("https://acc.dfs.core.windows.net/files/", "abfss://files@acc.dfs.core.windows.net"),
        ("abfss://files@acc.dfs.core.windows.net", "abfss://files@acc.dfs.core.windows.net"),
        ("abfss://files@acc.dfs.core.windows.net/", "abfss://files@acc.dfs.core.windows.net"),
        ("/srv/dicom/", "/srv/dicom"),
        ("file:///srv/dicom", "/srv/dicom"),
        ("files", (Path.cwd() / "files").as_posix()),
    ],
)
def test_file_url_is_prefix_slash_path(url, prefix):
    assert load(DICOM_FILE_SYSTEM_URL=url).file_url_prefix == prefix


@pytest.mark.parametrize(
    "url",
    [
        "https://acc.dfs.core.windows.net",
        "https://acc.dfs.core.windows.net/files/AHDS",
        "https://acc.blob.core.windows.net/files",
        "abfss://acc.dfs.core.windows.net",
        "abfss://files@acc.dfs.core.windows.net/AHDS",
        "http://acc.dfs.core.windows.net/files",
    ],
)
def test_file_system_that_cannot_be_used_is_explained(url):
    message = refusal(DICOM_FILE_SYSTEM_URL=url)
    assert "- DICOM_FILE_SYSTEM_URL: " in message
    assert "abfss://FILESYSTEM@ACCOUNT.dfs.core.windows.net" in message


# Columns and layouts

TOML = '[[columns]]\nname = "kvp"\ntag = "(0018,0060)"\ntype = "double"\ngrain = "instance"\n'
YAML = "columns:\n  - {name: kvp, tag: '00180060', type: double, grain: instance}\n"


@pytest.mark.parametrize(("name", "text"), [("c.toml", TOML), ("c.yaml", YAML), ("c.YML", YAML)])
def test_extra_columns_come_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    ((column, grain),) = load(DICOM_EXTRA_COLUMNS=str(tmp_path / name)).extra_columns
    assert (column.name, column.type, column.tag, grain) == ("kvp", pa.float64(), "00180060", Grain.INSTANCE)


def test_extra_columns_can_be_given_as_columns(tmp_path):
    (tmp_path / "c.toml").write_text(TOML)
    columns = load(DICOM_EXTRA_COLUMNS=str(tmp_path / "c.toml")).extra_columns
    assert Settings(extra_columns=columns).extra_columns is columns


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.toml", TOML.replace("double", "float"), "    line 4: type = \"float\"\n      type: 'float' is unknown"),
        ("c.json", "{}", "neither TOML nor YAML"),
        ("none.toml", None, "cannot be read (No such file or directory)"),
    ],
)
def test_extra_columns_that_cannot_be_used_are_explained(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_text(content)
    message = refusal(DICOM_EXTRA_COLUMNS=str(tmp_path / name))
    assert f"- DICOM_EXTRA_COLUMNS: {tmp_path / name}" in message
    assert told in message


def test_without_a_file_of_columns_no_dictionary_is_loaded():
    code = "import sys, dicom_assets.definitions as _; print(*sys.modules)"
    command, env = [sys.executable, "-c", code], clean_environment()
    loaded = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "dicom_assets.config.rules" in loaded.stdout.split()
    assert "dicom_assets.config.column_file" not in loaded.stdout.split()
    assert "pydicom" not in loaded.stdout.split()


def test_layout_that_does_not_exist_is_refused_with_the_one_that_does():
    assert load(DICOM_TABLE_PROFILE="healthcare-data-solutions").table_profile == "healthcare-data-solutions"
    message = refusal(DICOM_TABLE_PROFILE="omop")
    assert "- DICOM_TABLE_PROFILE: 'omop' is not a table layout. Set healthcare-data-solutions, or unset it" in message


# All of it


def test_every_problem_is_listed_at_once():
    message = refusal(
        DICOM_SERVICE_URL="http://example.org",
        DICOM_AUTHENTICATION="client_secret",
        DICOM_BATCH_SIZE="0",
        DICOM_END_TIME="soon",
        DICOM_CONTAINER_NAME="X",
        DICOM_STUDY_TABLE_PATH="series",
    )
    assert message.splitlines()[0] == "7 settings cannot be used:"
    assert [line.split(":")[0] for line in message.splitlines()[1:]] == [
        "- DICOM_SERVICE_URL",
        "- DICOM_BATCH_SIZE",
        "- DICOM_START_TIME",
        "- DICOM_END_TIME",
        "- DICOM_CONTAINER_NAME",
        "- DICOM_STUDY_TABLE_PATH",
        "- AZURE_CLIENT_SECRET",
    ]


def test_long_values_are_cut_in_messages():
    assert "x" * 41 not in refusal(DICOM_AUTHENTICATION="x" * 500)


def test_misspelt_variable_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        load(DICOM_BACH_SIZE="5", DICOM_ASSETS_COLOUR="red", OTHER_BATCH_SIZE="7")
    (record,) = caplog.records
    assert record.getMessage() == "DICOM_BACH_SIZE is not a setting, so it does nothing. Did you mean DICOM_BATCH_SIZE?"


def test_rows_describe_every_setting():
    rows = describe_settings()
    assert len(rows) == len({*Settings.model_fields} - {"service_name", "environment", "sharing"})
    assert all(row.meaning.endswith(".") for row in rows)
    assert {row.variable: row.default for row in rows if row.default} == {
        "DICOM_AUTHENTICATION": "default",
        "DICOM_CHANGE_FEED_POOL": "dicom_lake",
        "DICOM_MERGE_ENGINE": "delta-rs",
        "DICOM_TOKEN_SCOPE": "https://dicom.healthcareapis.azure.com/.default",
        "DICOM_API_VERSION": "2",
        "DICOM_BATCH_SIZE": "200",
        "DICOM_MAX_CONCURRENT_REQUESTS": "8",
        "DICOM_MAX_MEMORY_MB": "2048",
        "DICOM_WINDOW_DELAY_MINUTES": "15",
        "DICOM_SENSOR_INTERVAL_SECONDS": "60",
        "DICOM_LOOK_BACK_HOURS": "24",
        "DICOM_CATCH_UP_HOURS_PER_RUN": "168",
        "DICOM_CATCH_UP_RUNS": "4",
        "DICOM_STORAGE_URL": "./data",
        "DICOM_CONTAINER_NAME": "dicom",
        "DICOM_INSTANCE_TABLE_PATH": "instance",
        "DICOM_SERIES_TABLE_PATH": "series",
        "DICOM_STUDY_TABLE_PATH": "study",
        "DICOM_CHANGE_FEED_TABLE_PATH": "change_feed",
        "DICOM_FILE_INDEX_TABLE_PATH": "file_index",
        "DICOM_HEALTHCARE_INSTANCE_TABLE_PATH": "healthcare_instance",
        "DICOM_RETENTION_HOURS": "720",
        "DICOM_FABRIC_TABLES": "instance,series,study",
        "DICOM_FABRIC_FILES_FOLDER": "AHDS",
        "DICOM_FABRIC_FILES_NAME": "AHDS",
        "DICOM_FABRIC_URL": "https://api.fabric.microsoft.com",
        "DICOM_FABRIC_TOKEN_SCOPE": "https://api.fabric.microsoft.com/.default",
    }


def test_documented_defaults_load_as_the_defaults():
    assert load_settings({row.variable: row.default for row in describe_settings()}) == load()


def test_engine_is_delta_rs_unless_it_is_named():
    assert load().merge_engine == "delta-rs"
    assert load(DICOM_MERGE_ENGINE="Spark").merge_engine == "spark"
    assert "delta-rs, spark" in refusal(DICOM_MERGE_ENGINE="flink")


@pytest.mark.parametrize("address", ["sc://spark.example", "sc://spark.example:443/;use_ssl=true;token=hidden"])
def test_address_of_spark_is_kept_and_never_shown(address):
    settings = load(DICOM_SPARK_REMOTE=address)
    assert settings.spark_remote.get_secret_value() == address
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    "address", ["spark://hidden:7077", "sc://", "sc://x:hidden", "sc://x/hidden", "https://hidden"]
)
def test_address_of_something_else_than_spark_connect_is_explained(address):
    message = refusal(DICOM_SPARK_REMOTE=address)
    assert "DICOM_SPARK_REMOTE: is not an address of a Spark Connect server. Set sc://HOST:15002" in message
    assert "hidden" not in message
