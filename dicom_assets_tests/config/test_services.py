"""The file of several services: the settings of each, and what is told of one that cannot be used."""

import os
import re

import pytest

from dicom_assets.config.connections import build_lake, build_storage
from dicom_assets.config.services import load_service, load_services
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE
from dicom_assets.core.errors import SettingsError
from dicom_assets.identity.credentials import Authentication

TWO = """
[services.north]
service_url = "https://north.dicom.azurehealthcareapis.com"
start_time = 2026-03-01T00:30:00Z
batch_size = 50

[services.south]
service_url = "https://south.dicom.azurehealthcareapis.com"
start_time = "2026-04-01T00:00+02:00"
"""


@pytest.fixture
def load(tmp_path):
    def load_file(text: str, name: str = "services.toml", **env: str):
        (tmp_path / name).write_text(text)
        return load_services({"DICOM_SERVICES": str(tmp_path / name), **env})

    return load_file


@pytest.fixture
def refusal(load):
    """Gives what is said of a file: each line at fault with what is wrong with it, and all of it as one text."""

    def refuse(text: str, **env: str) -> tuple[list[str], str]:
        with pytest.raises(SettingsError) as caught:
            load(text, **env)
        assert caught.value.__cause__ is None
        message = str(caught.value)
        return [line.strip() for line in message.split("\n")[1:]], message

    return refuse


def test_without_a_file_there_is_the_service_of_the_environment():
    env = {"DICOM_SERVICE_URL": "https://one.example.org", "DICOM_START_TIME": "2026-03-01T00:00Z"}
    (settings,) = load_services(env)
    assert settings.service_name is None
    assert settings.environment is None
    assert settings == load_service(None, env)
    assert settings.table_paths["instance"] == "instance"


def test_each_service_has_settings_of_its_own_and_those_of_the_environment(load):
    north, south = load(TWO, DICOM_BATCH_SIZE="20", DICOM_STORAGE_URL="/lake", DICOM_RETENTION_HOURS="100")
    assert (north.service_name, south.service_name) == ("north", "south")
    assert (north.batch_size, south.batch_size) == (50, 20)
    assert [f"{each.first_hour:%m-%dT%H}" for each in (north, south)] == ["03-01T00", "03-31T22"]
    assert {each.retention_hours for each in (north, south)} == {100}
    assert build_lake(north).uri(INSTANCE) == "/lake/dicom/north/instance"
    assert build_lake(south).uri(CHANGE_FEED) == "/lake/dicom/south/change_feed"


def test_paths_of_the_environment_lie_in_the_folder_of_the_service_and_its_own_where_it_says(load):
    text = TWO + 'study_table_path = "gold/south_study"\ncontainer_name = "archive"\n'
    north, south = load(text, DICOM_STUDY_TABLE_PATH="silver/study")
    assert north.table_paths["study"] == "north/silver/study"
    assert south.table_paths["study"] == "gold/south_study"
    assert (north.container_name, south.container_name) == ("dicom", "archive")


def test_yaml_says_the_same(load):
    text = "services:\n  north:\n    service_url: https://n.example.org\n    start_time: 2026-03-01T00:00Z\n"
    (north,) = load(text, "services.yaml")
    assert (north.service_name, north.service_url) == ("north", "https://n.example.org")


SHARED = 'tables = "shared"\n' + TWO


def test_services_share_tables_where_the_file_says_so(load):
    for settings in load(SHARED, DICOM_STUDY_TABLE_PATH="silver/study", DICOM_STORAGE_URL="/lake"):
        lake = build_lake(settings)
        assert lake.scope.service == settings.service_name
        assert (lake.uri(INSTANCE), settings.table_paths["study"]) == ("/lake/dicom/instance", "silver/study")
    assert [build_lake(each).scope.service for each in load(SHARED, DICOM_MERGE_ENGINE="spark")] == ["north", "south"]
    for settings in (*load(TWO), *load('tables = "own"\n' + TWO)):
        assert build_lake(settings).scope.service is None
        assert settings.table_paths["instance"] == f"{settings.service_name}/instance"


def test_yaml_shares_tables_too(load):
    text = (
        "tables: shared\nservices:\n  n:\n    service_url: https://n.example.org\n    start_time: 2026-03-01T00:00Z\n"
    )
    (settings,) = load(text, "services.yaml")
    assert (build_lake(settings).scope.service, settings.table_paths["series"]) == ("n", "series")


def test_an_identity_is_all_of_a_piece(load):
    identity = {
        "DICOM_AUTHENTICATION": "client_secret", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c",
        "AZURE_CLIENT_SECRET": "of-the-lake",
    }  # fmt: skip
    own = 'authentication = "client_secret"\nazure_tenant_id = "t2"\nazure_client_id = "c2"\n'
    north, south = load(
        TWO + own + 'azure_client_secret = { env = "SOUTH" }\n', **identity, SOUTH="of-south", DICOM_STORAGE_URL="/lake"
    )
    assert north.azure_client_secret.get_secret_value() == "of-the-lake"
    assert south.azure_client_secret.get_secret_value() == "of-south"
    _, other = load(TWO + 'azure_client_id = "c3"\n', **identity)
    assert (other.authentication, other.azure_client_id) == (Authentication.DEFAULT, "c3")
    assert other.azure_client_secret is other.azure_tenant_id is None
    assert other.of_lake.azure_client_secret.get_secret_value() == "of-the-lake"


def test_the_lake_is_opened_by_the_identity_of_the_environment(load, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dicom_assets.config.connections.build_identity", lambda settings: asked.append(settings) or None
    )
    account = "https://lake.dfs.core.windows.net"
    _, south = load(TWO + 'authentication = "none"\n', DICOM_STORAGE_URL=account)
    for url in (south.lake_url, "abfss://files@other.dfs.core.windows.net"):
        with pytest.raises(SettingsError, match="nothing to sign in"):
            build_storage(south, url).options()
    assert asked == [south.environment, south]


def test_every_problem_is_told_with_its_line_and_no_value(refusal):
    lines, message = refusal(
        "[services.north]\n"
        'service_url = "http://hidden.example.org"\n'
        'start_time = "2026-03-01"\n'
        'start_tim = "x"\n'
        "[services.South]\n"
        "[services.west]\n"
        'azure_client_secret = "hidden"\n'
        'storage_url = "hidden"\n'
        'batch_size = { environment = "X" }\n'
        'token_scope = { env = "MISSING" }\n'
        "[services.east]\n"
        'service_url = "https://e.example.org"\n'
        'batch_size = "500"\n'
        'start_time = "2026-03-01"\n'
        "[service.other]\n"
    )
    assert "hidden" not in message
    assert [line for line in lines if line.startswith("line")] == [
        "line 4: start_tim = …",
        "line 5: [services.South]",
        "line 6: [services.west]",
        "line 7: azure_client_secret = …",
        "line 8: storage_url = …",
        "line 9: batch_size = …",
        "line 10: token_scope = …",
        "line 13: batch_size = …",
        "line 14: start_time = …",
        "line 15: [service.other]",
    ]
    for text in (
        "start_tim: there is no such setting of a service. Did you mean start_time?",
        "'South' cannot be the name of a service",
        "service_url is missing. Add it",
        "azure_client_secret: a secret does not belong in a file",
        "storage_url: all services have that in common. Set DICOM_STORAGE_URL in the environment.",
        'batch_size: a table here names a variable: batch_size = { env = "VARIABLE" }.',
        "token_scope: the variable MISSING is not set.",
        "batch_size: 500 is not between 1 and 200",
        "start_time: '2026-03-01' has no time zone",
        "'service' has no meaning here. Begin each service with [services.NAME].",
    ):
        assert text in message


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", "There is no service in it. Begin each with [services.NAME], and its settings below.", ""),
        ("services = []\n", "line 1: services = …", "There is no service in it."),
        ("[services]\nnorth = 1\n", "line 2: north = …", "north has no settings."),
        (f"{TWO}[services.north]\n", "line 10: [services.north]", "Cannot declare ('services', 'north') twice"),
        (
            TWO.replace("south.dicom", "north.dicom"),
            "line 8: service_url = …",
            "another service has the same, so all of it would be read twice. Take one of them out. It stands in line 3",
        ),
        (f'{TWO}start_time = "x"\n', "line 10: start_time = …", "the name was given before"),
        (
            f'{TWO}series_table_path = "north/instance"\n',
            "line 10: series_table_path = …",
            "'north/instance' overlaps 'north/instance', the instance_table_path of north",
        ),
        (
            f'tables = "hidden"\n{TWO}',
            "line 1: tables = …",
            'tables: this is neither "shared" nor "own". "shared" keeps one set of tables for all services, in which '
            'the column serviceName tells whose a row is; "own", as without it, a set for each.',
        ),
        (f"tables = [1]\n{TWO}", "line 1: tables = …", 'neither "shared" nor "own"'),
        (
            f'{TWO}tables = "shared"\n',
            "line 10: tables = …",
            "tables: all services have that in common. Put it above the first [services.NAME].",
        ),
        (
            f'{SHARED}container_name = "other"\n',
            "line 11: container_name = …",
            "container_name: all services have that in common. Set DICOM_CONTAINER_NAME in the environment.",
        ),
        (
            f'{SHARED}instance_table_path = "south/instance"\n',
            "line 11: instance_table_path = …",
            "Set DICOM_INSTANCE_TABLE_PATH in the environment.",
        ),
        (f"{TWO}catch_up_runs = true\n", "line 10: catch_up_runs = …", "true and false is no value here"),
        (TWO.replace("start_time = 2026-03-01T00:30:00Z\n", ""), "line 2: [services.north]", "but service_url is. Set"),
        (
            f'{TWO}authentication = "client_secret"\n',
            "line 7: [services.south]",
            "authentication=client_secret needs azure_tenant_id, azure_client_id, azure_client_secret, unset now.",
        ),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(refusal, text, line, told):
    lines, message = refusal(text)
    assert line in lines
    assert told in message
    assert "docs/services.md" in message


def test_two_services_with_the_same_tables_are_refused_unless_their_containers_differ(load, refusal):
    same = TWO.replace("[services.south]", 'instance_table_path = "tables/instance"\n[services.south]')
    lines, message = refusal(same + 'instance_table_path = "tables/Instance/south"\n')
    assert "the instance_table_path of north: each service would take the other's rows for its own." in message
    assert "line 11: instance_table_path = …" in lines
    load(same + 'instance_table_path = "tables/instance"\ncontainer_name = "other"\n')


def test_a_file_beside_a_service_in_the_environment_is_refused(refusal):
    _, message = refusal(TWO, DICOM_SERVICE_URL="https://one.example.org", DICOM_START_TIME="2026-03-01T00:00Z")
    assert message.startswith("DICOM_SERVICE_URL is set, and DICOM_SERVICES too")


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match=r"DICOM_SERVICES cannot be used: /nowhere\.toml cannot be read"):
        load_services({"DICOM_SERVICES": "/nowhere.toml"})


@pytest.mark.parametrize("name", ["public", "information_schema", "table", "instance", "healthcare_instance"])
def test_name_with_a_meaning_in_sql_is_refused(name, refusal):
    lines, message = refusal(TWO.replace("south", name, 1))
    assert lines[0] == f"line 7: [services.{name}]"
    assert f"{name!r} cannot be the name of a service: it has a meaning of its own in SQL" in message


def test_one_service_is_chosen_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "s.toml").write_text(TWO)
    for name in [name for name in os.environ if name.startswith(("DICOM_", "AZURE_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(
        SettingsError, match=re.escape("There is no service 'north'. DICOM_SERVICES lists none: it is not set.")
    ):
        load_service("north")
    monkeypatch.setenv("DICOM_SERVICES", str(tmp_path / "s.toml"))
    assert load_service("south").service_name == "south"
    with pytest.raises(
        SettingsError, match=re.escape("There is no service 'east'. DICOM_SERVICES lists north, south.")
    ):
        load_service("east")
    with pytest.raises(SettingsError, match=re.escape("several services: north, south. Name one: --service NAME")):
        load_service()
