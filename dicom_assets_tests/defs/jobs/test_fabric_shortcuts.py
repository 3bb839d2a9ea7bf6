import dagster as dg
import pytest

from dicom_assets.config.services import load_services
from dicom_assets.config.settings import load_settings
from dicom_assets.definitions import build_definitions
from dicom_assets_tests.fabric.fabric_server import (
    ACCOUNT,
    SETTINGS,
    FabricServer,
    adls,
)


@pytest.fixture
def fabric():
    with FabricServer().running() as server:
        yield server
    assert server.problems == []


def run(fabric, **config):
    settings = load_settings({**SETTINGS, "DICOM_FABRIC_URL": fabric.url})
    job = build_definitions(settings).resolve_job_def("fabric_shortcuts")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance, run_config={"ops": {"bring_shortcuts": {"config": config}}}, raise_on_error=False
        )


def test_job_makes_shortcuts_once(fabric):
    assert run(fabric, dry_run=True).success
    assert fabric.shortcuts == {}
    assert run(fabric).success
    assert set(fabric.shortcuts) == {"Tables/instance", "Tables/series", "Tables/study"}
    fabric.requests.clear()
    assert run(fabric).success
    assert set(fabric.requests) == {"ListShortcuts"}


def test_job_fails_where_a_shortcut_points_elsewhere_unless_told_to_replace_it(fabric):
    fabric.put(adls("Tables", "instance", "/old/instance"))
    failed = run(fabric)
    assert not failed.success
    (event,) = [event for event in failed.all_node_events if event.is_step_failure]
    assert (
        "Tables/instance points to https://mylake.dfs.core.windows.net/old/instance"
        in event.step_failure_data.error_display_string
    )
    assert run(fabric, replace=True).success
    assert fabric.place("Tables/instance")[0] == f"{ACCOUNT}/dicom/instance"


def test_dagster_loads_all_definitions_with_a_lakehouse():
    definitions = build_definitions(load_settings(SETTINGS))
    assert "fabric_shortcuts" in {job.name for job in definitions.resolve_all_job_defs()}


def test_job_is_off_without_a_lakehouse():
    definitions = build_definitions(load_settings({**SETTINGS, "DICOM_FABRIC_LAKEHOUSE_ID": ""}))
    assert "fabric_shortcuts" not in {job.name for job in definitions.resolve_all_job_defs()}


def test_shortcuts_to_shared_tables_are_the_first_services_alone(fabric, tmp_path):
    lines = ['tables = "shared"']
    for name, files in (("north", ""), ("south", f'file_system_url = "{ACCOUNT}/images"'), ("west", "")):
        lines += [f"[services.{name}]", f'service_url = "https://{name}.example.org"']
        lines += ['start_time = "2026-03-01T00:00Z"', files]
    (tmp_path / "services.toml").write_text("\n".join(lines))
    environment = {**SETTINGS, "DICOM_FABRIC_URL": fabric.url, "DICOM_SERVICES": str(tmp_path / "services.toml")}
    definitions = build_definitions(*load_services(environment))
    names = {job.name for job in definitions.resolve_all_job_defs() if "fabric" in job.name}
    assert names == {"north__fabric_shortcuts", "south__fabric_shortcuts"}  # west has nothing of its own to show
    made = []
    with dg.DagsterInstance.ephemeral() as instance:
        for name in sorted(names):
            assert definitions.resolve_job_def(name).execute_in_process(instance=instance).success
            made.append(set(fabric.shortcuts))
    tables = {"Tables/instance", "Tables/series", "Tables/study"}
    assert made == [tables, tables | {"Files/south_AHDS"}]
    assert fabric.requests.count("CreateShortcut") == 4
