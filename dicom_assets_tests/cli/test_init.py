"""`dicom-assets init`: the project it writes, and folders that it refuses."""

import tomllib

import pytest
import yaml

from dicom_assets.cli.init import InitError, write_project
from dicom_assets.config.project import DAGSTER_YAML
from dicom_assets_tests.dagster_private import validate_home


def test_project_has_the_layout_of_create_dagster_and_the_component(tmp_path):
    folder = tmp_path / "Imaging-Lake"
    assert write_project(folder) == "imaging_lake"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "imaging-lake"
    assert project["tool"]["dg"] == {"directory_type": "project", "project": {"root_module": "imaging_lake"}}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        ".env.example",
        ".gitignore",
        "README.md",
        "dagster.yaml",
        "pyproject.toml",
        "src/imaging_lake/__init__.py",
        "src/imaging_lake/definitions.py",
        "src/imaging_lake/defs/__init__.py",
        "src/imaging_lake/defs/dicom_lake/defs.yaml",
        "tests/__init__.py",
    }
    component = yaml.safe_load((folder / "src/imaging_lake/defs/dicom_lake/defs.yaml").read_text())
    assert component["type"] == "dicom_assets.DicomLakeComponent"
    assert "$" not in "".join(path.read_text() for path in folder.rglob("*.*") if path.is_file())


def test_history_of_the_project_stays_without_dagster_home_and_all_else_is_as_in_the_demo(tmp_path):
    write_project(tmp_path / "lake_of_ours")
    file = tmp_path / "lake_of_ours" / "dagster.yaml"
    validate_home(str(file.parent))
    configuration = yaml.safe_load(file.read_text())
    assert configuration.pop("storage") == {"sqlite": {"base_dir": ".dagster/storage"}}
    assert configuration == yaml.safe_load(DAGSTER_YAML.read_text())


def test_secrets_and_tables_are_not_for_git(tmp_path):
    write_project(tmp_path / "lake_of_ours")
    ignored = (tmp_path / "lake_of_ours" / ".gitignore").read_text().split()
    assert {".env", "/data/", ".dagster/"} <= set(ignored)


def test_folder_with_an_environment_alone_counts_as_empty(tmp_path):
    (tmp_path / "lake_of_ours" / ".venv").mkdir(parents=True)
    write_project(tmp_path / "lake_of_ours")
    assert (tmp_path / "lake_of_ours" / "pyproject.toml").is_file()


def test_folder_that_is_not_empty_is_left_alone_and_the_way_is_said(tmp_path):
    folder = tmp_path / "lake_of_ours"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(InitError, match=r"dg scaffold defs dicom_assets\.DicomLakeComponent"):
        write_project(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["2026", "class", "json", "dicom_assets", "läke!"])
def test_name_that_python_cannot_import_or_has_already_is_refused(tmp_path, name):
    with pytest.raises(InitError, match="another name"):
        write_project(tmp_path / name)
    assert not (tmp_path / name).exists()
