"""docs/downstream.md says what is true: each of its snippets runs, beside the tables and in another code location."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import deltalake
import pytest
import yaml

import dicom_assets
from dicom_assets import LakeSettings, asset_specs, build_defs, lake_io_manager
from dicom_assets.config.connections import build_lake
from dicom_assets.core.columns.schema import INSTANCE
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.assets.inputs import LOADERS
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import START, moment
from dicom_assets_tests.defs.assets.test_data_versions import ON_CHANGED_ROWS, ON_FINAL_READINGS
from dicom_assets_tests.lakes.building import instance_of, store

# the page's mapping to hours that may not exist, which dagster calls a beta feature
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

PAGE = (Path(__file__).parents[2] / "docs" / "downstream.md").read_text(encoding="utf-8")
FIRST, LAST = START + 22 * HOUR, START + 26 * HOUR
"""Hours of the service: the last two of a day, and the first two of the next."""


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def settings(tmp_path, monkeypatch) -> LakeSettings:
    monkeypatch.chdir(tmp_path)
    return LakeSettings(storage_url="./data", container_name="dicom", start_time=FIRST, end_time=LAST)


@pytest.fixture
def lake(settings) -> Lake:
    lake = build_lake(settings)
    for hour in range(22, 26):
        row = instance_of(str(hour), hour, modality="CT", rows=512)
        store(lake, row | {"lastModifiedTimestamp": START + timedelta(hours=hour, minutes=59)}, table=INSTANCE)
    return lake


@pytest.fixture
def page(lake) -> SimpleNamespace:
    """What the page's Python defines, run from top to bottom."""
    names: dict = {}
    for code in snippets("python"):
        exec(compile(code, "downstream.md", "exec"), names)
    return SimpleNamespace(**names)


def build_beside(settings: LakeSettings) -> dg.Definitions:
    return build_defs(settings)


def build_elsewhere(settings: LakeSettings) -> dg.Definitions:
    return dg.Definitions(assets=asset_specs(settings), resources={"dicom__delta": lake_io_manager(settings)})


@pytest.fixture(params=[build_beside, build_elsewhere], ids=["beside the tables", "in another code location"])
def materialise(request, settings, lake) -> Iterator[Callable]:
    """Materialises one asset of the page; gives the metadata of its materialization."""
    with dg.DagsterInstance.ephemeral() as instance:

        def run(asset: dg.AssetsDefinition, partition: str | None = None) -> dict:
            definitions = dg.Definitions.merge(request.param(settings), dg.Definitions(assets=[asset]))
            result = dg.materialize(
                [*definitions.assets, asset],
                selection=[asset],
                resources=definitions.resources,
                instance=instance,
                partition_key=partition,
            )
            (event,) = result.asset_materializations_for_node(asset.op.name)
            return {name: value.value for name, value in event.metadata.items()}

        yield run


def test_whole_table(page, materialise):
    assert materialise(page.modalities) == {"rows": 4, "modalities": 1}


def test_hour_of_a_table(page, materialise):
    assert materialise(page.hourly_slices, "2026-03-01-23:00") == {"slices": 1}


def test_day_of_which_the_service_has_two_hours(page, materialise):
    assert [materialise(page.daily_report, day) for day in ("2026-03-01", "2026-03-02")] == [{"instances": 2}] * 2


def test_row_that_moves_to_a_later_hour_stays_one_row_of_a_copy(page, materialise, lake):
    materialise(page.modality_of_instance, "2026-03-01-22:00")
    moved = {"modality": "MR", "sequence": 99, "lastModifiedTimestamp": START + timedelta(hours=25, minutes=30)}
    store(lake, instance_of("22", 22) | moved, table=INSTANCE)
    materialise(page.modality_of_instance, "2026-03-02-01:00")
    rows = deltalake.DeltaTable("modalities").to_pyarrow_table().to_pylist()
    assert sorted((row["studyInstanceUid"], row["modality"]) for row in rows) == [("22", "MR"), ("25", "CT")]


def test_changes_since_the_version_that_was_stored_last(page, materialise, lake):
    first = materialise(page.live_instances)
    assert first == {"version": lake.open(INSTANCE).version, "changes": 4}
    store(lake, instance_of("new", 99, lastModifiedTimestamp=moment(0)), table=INSTANCE)
    assert materialise(page.live_instances)["changes"] == 1


def test_hour_that_an_asset_asks_the_context_for(page, materialise):
    assert materialise(page.own_reader, "2026-03-01-23:00") == {"hour": "2026-03-01-23:00"}


def test_conditions_of_the_page_are_those_that_are_tested(page):
    assert page.on_changed_rows == ON_CHANGED_ROWS
    assert page.on_final_readings == ON_FINAL_READINGS


def test_annotations_of_the_page_are_those_that_can_be_loaded():
    assert set(re.findall(r"^\| `([a-z]+\.\w+)`", PAGE, re.MULTILINE)) == set(LOADERS)


def test_component_of_the_page_has_the_tables_of_the_python_beside_it(page):
    (text,) = snippets("yaml")
    document = yaml.safe_load(text)
    name = document["type"].removeprefix("dicom_assets.")
    component = getattr(dicom_assets, name).from_attributes_dict(attributes=document["attributes"])
    definitions = component.build_defs(None)
    assert {spec.key for spec in definitions.assets} == {spec.key for spec in page.tables.assets}
    assert definitions.resources.keys() == page.tables.resources.keys() == {"dicom__delta"}


def test_tables_of_another_code_location_have_the_keys_hours_and_words_of_those_that_are_materialised(settings):
    beside = {spec.key: spec for spec in build_defs(settings).resolve_all_asset_specs() if spec.partitions_def}
    elsewhere = {spec.key: spec for spec in asset_specs(settings)}
    assert elsewhere.keys() == beside.keys()
    for key, spec in elsewhere.items():
        assert spec.partitions_def == beside[key].partitions_def
        assert spec.description == beside[key].description
        assert spec.group_name == beside[key].group_name
