"""From settings to shortcuts: the command, and what it makes of settings."""

import re

import pytest

from dicom_assets.config.settings import load_settings
from dicom_assets.core.errors import SettingsError
from dicom_assets.fabric.wanted import build_file_shortcut, build_table_shortcuts, has_lakehouse
from dicom_assets_tests.fabric.fabric_server import (
    ACCOUNT,
    CONNECTION,
    LAKEHOUSE,
    OTHER_CONNECTION,
    SETTINGS,
    WORKSPACE,
    FabricServer,
    adls,
)
from dicom_assets_tests.processes import clean_environment, run_command

FILES = {"DICOM_FILE_SYSTEM_URL": f"{ACCOUNT}/images"}


@pytest.fixture
def fabric():
    with FabricServer().running() as server:
        yield server
    assert server.problems == []


def run(fabric, *arguments, **env):
    variables = {**SETTINGS, "DICOM_FABRIC_URL": fabric.url, **env}
    result = run_command("fabric-shortcuts", *arguments, env=clean_environment(**variables))
    return result.returncode, result.stdout + result.stderr


def rows(output):
    """The table's cells."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in output.splitlines() if "│" in line]


def shortcuts(**env):
    settings = load_settings({**SETTINGS, **env})
    return {
        each.path: each.target.place
        for each in [*build_table_shortcuts(settings), build_file_shortcut(settings)]
        if each
    }


def refusal(**env):
    with pytest.raises(SettingsError) as caught:
        shortcuts(**env)
    return str(caught.value)


# The command


def test_command_makes_the_shortcuts_of_the_article_once(fabric):
    status, output = run(fabric, "--dry-run", **FILES)
    assert status == 0, output
    assert fabric.shortcuts == {}
    places = {
        "Tables/instance": f"{ACCOUNT}/dicom/instance",
        "Tables/series": f"{ACCOUNT}/dicom/series",
        "Tables/study": f"{ACCOUNT}/dicom/study",
        "Files/AHDS": f"{ACCOUNT}/images/AHDS",
    }
    assert rows(output) == [[name, place, "would create"] for name, place in places.items()]
    status, output = run(fabric, **FILES)
    assert status == 0, output
    assert rows(output) == [[name, place, "created"] for name, place in places.items()]
    assert {name: fabric.place(name) for name in fabric.shortcuts} == {
        name: (place, CONNECTION) for name, place in places.items()
    }
    status, output = run(fabric, **FILES)
    assert status == 0, output
    assert {row[2] for row in rows(output)} == {"as wanted"}


def test_command_leaves_alone_what_points_elsewhere_and_says_so(fabric):
    fabric.put(adls("Tables", "instance", "/old/instance"))
    status, output = run(fabric, "--tables", "instance,file_index")
    assert status == 1
    assert [row[2] for row in rows(output)] == ["left alone", "created"]
    assert "Error: Tables/instance points to https://mylake.dfs.core.windows.net/old/instance, not to" in output
    assert run(fabric, "--tables", "instance", "--replace")[0] == 0
    assert fabric.place("Tables/instance")[0] == f"{ACCOUNT}/dicom/instance"


def test_options_come_before_settings(fabric):
    status, output = run(
        fabric, "--workspace", WORKSPACE, "--lakehouse", LAKEHOUSE, "--connection", OTHER_CONNECTION,
        "--tables", "change_feed=feed", "--schema", "dbo", "--no-files",
        DICOM_FABRIC_WORKSPACE_ID="", DICOM_FABRIC_LAKEHOUSE_ID=CONNECTION, **FILES,
    )  # fmt: skip
    assert status == 0, output
    assert set(fabric.shortcuts) == {"Tables/dbo/feed"}
    assert fabric.place("Tables/dbo/feed") == (f"{ACCOUNT}/dicom/change_feed", OTHER_CONNECTION)


def test_refusals_are_told_without_a_traceback(fabric):
    fabric.may_write = False
    status, output = run(fabric)
    assert status == 1
    assert [row[2] for row in rows(output)] == ["failed"] * 3
    assert output.count("Error: ") == 3  # each names its shortcut
    fabric.token = "SECRET"
    status, output = run(fabric)
    assert status == 1
    assert output.startswith("Error: Fabric request failed: 401 (Unauthorized")
    assert "Traceback" not in output


def test_token_is_asked_for_fabric_and_told_nobody_else(fabric):
    fabric.token = "SECRET-TOKEN"
    identity = {"IDENTITY_ENDPOINT": f"{fabric.url}/msi/token", "IDENTITY_HEADER": "x"}
    status, output = run(fabric, DICOM_AUTHENTICATION="managed_identity", **identity)
    assert status == 0, output
    assert fabric.audiences == ["https://api.fabric.microsoft.com"]
    assert "SECRET" not in output


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"DICOM_FABRIC_WORKSPACE_ID": ""}, "DICOM_FABRIC_WORKSPACE_ID is not set"),
        ({"DICOM_FABRIC_CONNECTION_ID": ""}, "or give it as --connection."),
        ({"DICOM_FABRIC_LAKEHOUSE_ID": "lake"}, "DICOM_FABRIC_LAKEHOUSE_ID: 'lake' is not an ID."),
        ({"DICOM_STORAGE_URL": "./data"}, "The tables lie in data, where Fabric cannot read them."),
    ],
)
def test_command_says_what_is_missing(fabric, env, told):
    status, output = run(fabric, **env)
    assert status == 1
    assert told in output
    assert "Traceback" not in output
    assert fabric.requests == []


def test_tables_that_services_share_get_one_shortcut(fabric, tmp_path):
    lines = ['tables = "shared"']
    for name in ("north", "south"):
        lines += [f"[services.{name}]", f'service_url = "https://{name}.example.org"']
        lines += ['start_time = "2026-03-01T00:00Z"', f'file_system_url = "{ACCOUNT}/{name}"']
    (tmp_path / "services.toml").write_text("\n".join(lines))
    status, output = run(fabric, DICOM_SERVICES=str(tmp_path / "services.toml"), DICOM_FABRIC_TABLES="instance")
    assert status == 0, output
    assert rows(output) == [
        ["Tables/instance", f"{ACCOUNT}/dicom/instance", "created"],
        ["Files/north_AHDS", f"{ACCOUNT}/north/AHDS", "created"],
        ["Files/south_AHDS", f"{ACCOUNT}/south/AHDS", "created"],
    ]


# What settings make of it


def test_paths_and_names_come_from_settings():
    assert shortcuts(
        DICOM_CONTAINER_NAME="lake", DICOM_SERIES_TABLE_PATH="silver/series", DICOM_FABRIC_SCHEMA="dicom",
        DICOM_FABRIC_TABLES="series = ct_series, file_index", DICOM_FABRIC_FILES_FOLDER="AHDS/ws/dicom/service",
        DICOM_FABRIC_FILES_NAME="contoso-dicom-files", **FILES,
    ) == {
        "Tables/dicom/ct_series": f"{ACCOUNT}/lake/silver/series",
        "Tables/dicom/file_index": f"{ACCOUNT}/lake/file_index",
        "Files/contoso-dicom-files": f"{ACCOUNT}/images/AHDS/ws/dicom/service",
    }  # fmt: skip


@pytest.mark.parametrize("file_system", ["", "./files", "/srv/files"])
def test_files_outside_azure_get_no_shortcut(file_system):
    assert not [path for path in shortcuts(DICOM_FILE_SYSTEM_URL=file_system) if path.startswith("Files")]


def test_files_in_another_account_need_a_connection_of_their_own():
    other = {"DICOM_FILE_SYSTEM_URL": "https://images.dfs.core.windows.net/dicom"}
    assert "DICOM_FABRIC_FILES_CONNECTION_ID is not set" in refusal(**other)
    settings = load_settings({**SETTINGS, **other, "DICOM_FABRIC_FILES_CONNECTION_ID": OTHER_CONNECTION})
    target = build_file_shortcut(settings).target
    assert (target.place, target.connection_id) == ("https://images.dfs.core.windows.net/dicom/AHDS", OTHER_CONNECTION)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("WORKSPACE_ID", "mine", "'mine' is not an ID"),
        ("TABLES", "instance,patients", "'patients' is not a table. Set some of change_feed, instance, series, study"),
        ("TABLES", "instance=a,series=A", "gives two tables the same name"),
        ("TABLES", "instance=my table", "'my table' cannot be the name of a shortcut"),
        ("SCHEMA", "a/b", "'a/b' cannot be the name of a shortcut"),
        ("FILES_NAME", "Über", "cannot be the name of a shortcut"),
        ("FILES_NAME", "n" * 256, "has 256 characters, and 255 are allowed"),
        ("FILES_FOLDER", "AHDS/a+b", "'AHDS/a+b' cannot be the target of a shortcut"),
        ("FILES_FOLDER", "a/" * 1024 + "b", "2048 characters in all"),
        ("URL", "http://api.fabric.microsoft.com", "is not an https URL"),
        ("URL", "https://api.fabric.microsoft.com/v1", "has a path, which the client adds by itself"),
        ("TOKEN_SCOPE", "https://api.fabric.microsoft.com", "is not a scope"),
    ],
)
def test_setting_that_fabric_would_refuse_is_refused_at_once(variable, value, told):
    message = refusal(**{f"DICOM_FABRIC_{variable}": value})
    assert message.startswith(f"1 setting cannot be used:\n- DICOM_FABRIC_{variable}: ")
    assert told in message


def test_table_path_that_fabric_cannot_point_to_is_told():
    message = refusal(DICOM_INSTANCE_TABLE_PATH="my tables/instance")
    assert message.startswith("DICOM_INSTANCE_TABLE_PATH: 'my tables/instance' cannot be the target of a shortcut")


@pytest.mark.parametrize("missing", sorted(name for name in SETTINGS if "FABRIC" in name))
def test_job_is_off_unless_the_lakehouse_is_named(missing):
    assert has_lakehouse(load_settings(SETTINGS))
    assert not has_lakehouse(load_settings({**SETTINGS, missing: ""}))
