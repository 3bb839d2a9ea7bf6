"""The snippets of docs/readers.md for a lake in Azure, run on Azurite as they stand but for names in the address."""

import pyarrow as pa
import pytest

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets_tests.lakes.building import store, study
from dicom_assets_tests.readers.snippets import execute, snippets

SECTIONS = {"DuckDB": 1, "Polars": 1, "deltalake": 1, "pyarrow": 1, "Sail: Spark SQL without Java": 2}
"""Which of a section's snippets it is."""


@pytest.fixture
def names(azurite, container, account_key, lake_settings) -> dict:
    """A lake with two studies, and the options that sign in to it."""
    lake = build_lake(load_settings(account_key | lake_settings))
    store(lake, study("1.1"), study("1.2"))
    store(lake, study("1.1", studyDescription="Corrected"))
    return {
        "options": {"azure_storage_account_key": azurite.key, "azure_endpoint": azurite.url},
        "url": f"{container}@{azurite.account}.dfs",
    }


def run(section: str, names: dict) -> int:
    snippet = snippets()[section][SECTIONS[section]]
    assert "FILESYSTEM@ACCOUNT.dfs" in snippet
    studies = execute(snippet.replace("FILESYSTEM@ACCOUNT.dfs", names["url"]), names)["studies"]
    if isinstance(studies, int):
        return studies
    (count,) = (studies if isinstance(studies, pa.Table) else studies.to_arrow())["studies"].to_pylist()
    return count


@pytest.mark.parametrize("section", [section for section in SECTIONS if not section.startswith("Sail")])
def test_reader_signs_in_and_counts(section, names):
    assert run(section, names) == 2


def test_sail_signs_in_by_its_environment_and_counts(names, monkeypatch):
    for name, value in names["options"].items():
        monkeypatch.setenv(name.upper(), value)
    section = "Sail: Spark SQL without Java"
    start, stop, _ = snippets()[section]
    execute(start.partition("\nlake =")[0], names)
    try:
        assert run(section, names) == 2
    finally:
        execute(stop, names)
