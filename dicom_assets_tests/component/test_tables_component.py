"""`DicomTablesComponent` and `asset_specs`: what a file or a call must say, and what they give."""

from pathlib import Path

import dagster as dg
import pytest

from dicom_assets import DicomTablesComponent, LakeSettings, asset_specs, lake_io_manager
from dicom_assets.core.errors import SettingsError

TABLES = ["change_feed", "file_index", "instance", "series", "study"]
ATTRIBUTES = {"storage_url": "./data", "container_name": "dicom", "start_time": "2026-03-01T00:00Z"}

SERVICES = """
[services.north]
service_url = "http://127.0.0.1:1"
start_time = "2026-03-01T00:00Z"

[services.south]
service_url = "http://127.0.0.1:2"
start_time = "2026-04-01T00:00Z"
"""


def load(**attributes: object) -> dg.Definitions:
    return DicomTablesComponent.from_attributes_dict(attributes=attributes).build_defs(None)


def keys_of(definitions: dg.Definitions) -> list[str]:
    return sorted(spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs())


@pytest.mark.parametrize(
    ("prefix", "resource"), [("dicom", "dicom__delta"), ("radiology/north", "radiology__north__delta")]
)
def test_five_external_assets_and_their_io_manager(prefix, resource):
    definitions = load(**ATTRIBUTES, key_prefix=prefix)
    assert keys_of(definitions) == [f"{prefix}/{name}" for name in TABLES]
    assert definitions.resources.keys() == {resource}
    specs = definitions.resolve_all_asset_specs()
    assert {spec.metadata["dagster/io_manager_key"] for spec in specs} == {resource}
    assert {spec.partitions_def.get_first_partition_key() for spec in specs} == {"2026-03-01-00:00"}
    assert not definitions.resolve_asset_graph().materializable_asset_keys


def test_keys_have_no_prefix_where_it_is_null():
    assert keys_of(load(**ATTRIBUTES, key_prefix=None)) == TABLES


def test_tables_lie_where_the_paths_say(tmp_path):
    definitions = load(**ATTRIBUTES | {"storage_url": str(tmp_path)}, instance_table_path="old/instance")
    (spec,) = (spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[-1] == "instance")
    assert Path(spec.metadata["dagster/uri"]) == tmp_path / "dicom" / "old" / "instance"


def test_several_services_have_their_own_keys_and_hours(tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(SERVICES)
    definitions = load(storage_url=str(tmp_path), services=str(file))
    assert keys_of(definitions) == [f"dicom/{service}/{name}" for service in ("north", "south") for name in TABLES]
    first = {spec.key.path[1]: spec.partitions_def.get_first_partition_key() for spec in definitions.assets}
    assert first == {"north": "2026-03-01-00:00", "south": "2026-04-01-00:00"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"start_time": None}, "start_time"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"key_prefix": "a b"}, "key_prefix"),
        ({"service_url": "https://example.org"}, "service_url"),
        ({"azure_storage_account_key": "c2VjcmV0"}, "azure_storage_account_key"),
    ],
)
def test_attribute_that_cannot_be_used_is_named(changed, named):
    with pytest.raises(Exception, match=named) as caught:
        load(**{name: value for name, value in (ATTRIBUTES | changed).items() if value is not None})
    assert "c2VjcmV0" not in str(caught.value)


def test_first_hour_is_needed_in_python_too():
    with pytest.raises(SettingsError, match="start_time"):
        asset_specs(LakeSettings(storage_url="./data"))


def test_prefix_that_cannot_be_one_is_refused():
    settings = LakeSettings(storage_url="./data", start_time="2026-03-01T00:00Z")
    for call in (asset_specs, lake_io_manager):
        with pytest.raises(SettingsError, match="key_prefix"):
            call(settings, key_prefix="a/b c")
