"""Commands and pages as messages name them, in a checkout and elsewhere."""

import pytest

from dicom_assets.config.project import DAGSTER_YAML, REPOSITORY, WORKSPACE_YAML, link_pages, name_command
from dicom_assets_tests.processes import PROJECT


def test_checkout_has_make_and_the_pages(monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert name_command("dev") == "make dev"
    assert name_command("dev", "--port 1") == 'make dev ARGS="--port 1"'
    assert link_pages("see docs/spark.md.") == "see docs/spark.md."


@pytest.mark.parametrize("makefile", [True, False])
def test_elsewhere_the_command_is_in_the_environment_and_pages_have_addresses(monkeypatch, tmp_path, makefile):
    monkeypatch.chdir(tmp_path)
    if makefile:  # of another project
        (tmp_path / "Makefile").touch()
    assert name_command("dev") == "dicom-assets dev"
    assert name_command("dev", "--port 1") == "dicom-assets dev --port 1"
    assert link_pages("see docs/spark.md.") == f"see {REPOSITORY}/docs/spark.md."


def test_files_at_the_top_of_the_checkout_are_those_in_the_package():
    for file in (DAGSTER_YAML, WORKSPACE_YAML):
        assert (PROJECT / file.name).resolve() == file.resolve()
