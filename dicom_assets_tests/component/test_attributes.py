"""Attributes of the component, settings in Python, and what importing does not do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException

import dicom_assets
from dicom_assets import DicomLakeComponent, LakeSettings, build_defs
from dicom_assets.config.settings import SECRETS, Settings
from dicom_assets.core.errors import SettingsError
from dicom_assets_tests.processes import clean_environment

PAGE = (Path(__file__).parents[2] / "docs" / "component.md").read_text(encoding="utf-8")


def resolve(*lines: str) -> DicomLakeComponent:
    return DicomLakeComponent.resolve_from_yaml("\n".join(["storage_url: /tables", *lines]))


def test_every_setting_is_an_attribute_by_its_name():
    attributes = DicomLakeComponent.model().model_fields
    settings = {name for name, info in Settings.model_fields.items() if info.description}
    assert attributes.keys() - settings == {"key_prefix", "group_name", "owners", "automation"}
    assert settings <= attributes.keys()
    assert not any("DICOM_" in str(info.description) for info in attributes.values())
    json.dumps(DicomLakeComponent.model().model_json_schema())


def test_a_subclass_has_a_model_of_its_own():
    class Other(DicomLakeComponent):
        pass

    assert Other.model() is Other.model()
    assert Other.model() is not DicomLakeComponent.model()


@pytest.mark.parametrize("text", ["1e5", "1_000", "'quoted'", "None", "[1]", "sv=1&sig=a%2Bb%3D"])
def test_secrets_are_taken_verbatim(text, monkeypatch):
    monkeypatch.setenv("SECRET", text)
    settings = resolve("azure_client_secret: '{{ env.SECRET }}'").settings
    assert settings.azure_client_secret.get_secret_value() == text
    assert f"azure_client_secret={text}" not in repr(settings)


def test_variable_that_is_not_set_leaves_the_attribute_out(monkeypatch):
    monkeypatch.delenv("UNSET", raising=False)
    settings = resolve("service_url: '{{ env.UNSET }}'", 'container_name: \'{{ env("UNSET", "mine") }}\'').settings
    assert (settings.service_url, settings.container_name) == (None, "mine")


@pytest.mark.parametrize("name", SECRETS)
def test_secret_in_plain_is_refused_without_being_shown(name):
    with pytest.raises(ResolutionException) as caught:
        resolve(f"{name}: https://hooks.example/hunter2")
    assert name in str(caught.value)
    assert "env.VARIABLE" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_problem_has_its_line_and_names_attributes(tmp_path):
    with pytest.raises(ResolutionException) as caught:
        resolve("service_url: http://127.0.0.1:1", "batch_size: 900")
    lines = str(caught.value).splitlines()
    assert [re.match(r"<string>:\d+ - \w+", line)[0] for line in lines] == [
        "<string>:3 - batch_size", "<string>:1 - start_time",
    ]  # fmt: skip
    assert "service_url is" in lines[1]
    assert "DICOM_" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["a__b", "a-b", "a//b", "/a", '["a", ""]'])
def test_prefix_that_cannot_stand_in_names_is_refused(prefix):
    with pytest.raises(ResolutionException, match="key_prefix"):
        resolve(f"key_prefix: {prefix}")


def test_off_leaves_out_what_starts_runs_and_keeps_the_jobs():
    component = resolve("automation: off")  # which YAML reads as False
    definitions = component.build_defs(None)
    assert not definitions.sensors
    assert not definitions.schedules
    names = {job.name for job in definitions.jobs}
    assert names == {f"dicom__{name}" for name in ("hours", "doctor", "audit_lake", "check_freshness", "maintain_lake")}


@pytest.mark.parametrize("tables", ["own", "shared"])
def test_several_services_are_one_component(tmp_path, tables, monkeypatch):
    monkeypatch.setenv("SOUTH_URL", "https://south.example")
    (tmp_path / "services.toml").write_text(
        f"""
        tables = "{tables}"
        [services.north]
        service_url = "https://north.example"
        start_time = "2026-03-01T00:00Z"
        [services.south]
        service_url = {{ env = "SOUTH_URL" }}
        start_time = "2026-03-01T00:00Z"
        """
    )
    component = resolve(f"services: {tmp_path / 'services.toml'}", "key_prefix: imaging", "window_delay_minutes: 30")
    definitions = component.build_defs(None)
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert {"imaging/north/instance", "imaging/south/study"} <= keys
    assert [each.window_delay_minutes for each in (component.settings, *component.others)] == [30, 30]
    dg.Definitions.validate_loadable(definitions)


def test_problem_of_the_services_file_stands_below_the_attribute(tmp_path):
    (tmp_path / "services.toml").write_text('[services.north]\nservice_url = "http://elsewhere.example"\n')
    with pytest.raises(ResolutionException, match=r"<string>:2 - services: .*services.toml has"):
        resolve(f"services: {tmp_path / 'services.toml'}")


def test_settings_in_python_are_checked_with_the_fields_names():
    with pytest.raises(SettingsError) as caught:
        LakeSettings(service_url="https://north.example", batch_size=900, sotrage_url="x")
    problems = [line.split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert problems == ["- sotrage_url", "- batch_size", "- start_time"]
    assert "DICOM_" not in str(caught.value)


def test_definitions_without_a_prefix_have_plain_names(tmp_path):
    definitions = build_defs(LakeSettings(storage_url=str(tmp_path)), key_prefix=None)
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert "instance" in keys
    assert definitions.executor is None


IMPORTING = """
import os
before = dict(os.environ)
import pyarrow as pa
pool = pa.default_memory_pool().backend_name
import dicom_assets
for name in dicom_assets.__all__:
    getattr(dicom_assets, name)
dicom_assets.build_defs(dicom_assets.LakeSettings(storage_url="/tables"))
assert dict(os.environ) == before
assert pa.default_memory_pool().backend_name == pool
"""


def test_importing_reads_no_settings_and_leaves_the_process_as_it_is():
    env = clean_environment(DICOM_BATCH_SIZE="not a number", DICOM_SERVICES="/nowhere.toml")
    result = subprocess.run([sys.executable, "-c", IMPORTING], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_public_names_are_shown_to_dg():
    assert set(dicom_assets.__all__) <= set(dir(dicom_assets))


def test_examples_on_the_page_are_what_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGING_SERVICE_URL", "https://WORKSPACE-SERVICE.dicom.azurehealthcareapis.com")
    yaml = PAGE.split("```yaml\n")[1].split("```")[0].split("attributes:\n")[1].replace("\n  ", "\n").strip()
    context = {"context": type("Context", (), {"project_root": tmp_path})()}
    component = DicomLakeComponent.resolve_from_yaml(yaml, scope=context)
    assert (component.key_prefix, component.settings.storage_url) == ("imaging", f"{tmp_path}/data")
    example: dict = {}
    exec(compile(PAGE.split("```python\n")[1].split("```")[0], "example", "exec"), example)
    assert example["defs"].get_repository_def().has_job("imaging__hours")
    for name in re.findall(r"^\| `(\w+)`", PAGE, re.M):
        assert name in DicomLakeComponent.model().model_fields
