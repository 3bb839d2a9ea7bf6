"""Assets of a host's own that take tables of the lake: hourly, daily, or as a whole."""

import sys
from datetime import timedelta

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, STUDY, TABLES
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.assets.inputs import LOADERS
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.partitions import PARTITION_FORMAT, build_partitions
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import START, entry
from dicom_assets_tests.lakes.building import build_lake, store, study

# Dagster calls the mapping to hours that may not exist a beta feature
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROW_TYPES = [pa.Table, pd.DataFrame, pl.DataFrame, pl.LazyFrame]
FIRST, LAST = START + timedelta(hours=22), START + timedelta(hours=26)
"""Hours of the service: the last two of a day, and the first two of the next."""
HOURS = build_partitions(FIRST, LAST)
DAYS = dg.DailyPartitionsDefinition(START.strftime("%Y-%m-%d"), end_offset=1)


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = build_lake(tmp_path / "lake")
    for hour in range(22, 26):
        store(lake, entry(3600 * hour + 7, metadata={"n": hour}), table=CHANGE_FEED)
        store(lake, study(str(hour), lastModifiedTimestamp=START + timedelta(hours=hour, minutes=59)))
    return lake


def load(lake: Lake, annotation, source: str = "study", partition: str | None = None, **options) -> object:
    """Return what an asset gets for its input."""
    got = []
    upstream = dg.AssetSpec(["dicom", source], partitions_def=HOURS).with_io_manager_key("dicom__delta")
    mapping = options.pop("mapping", None)

    @dg.asset(ins={"it": dg.AssetIn(["dicom", source], partition_mapping=mapping)}, **options)
    def take(it: annotation) -> None:
        got.append(it)

    manager = DeltaIOManager(lake, {dg.AssetKey(["dicom", table.name]): table for table in TABLES})
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"dicom__delta": manager}
        assert dg.materialize([upstream, take], resources=resources, instance=instance, partition_key=partition).success
    return got[0]


def studies(rows) -> list[str]:
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    if isinstance(rows, pa.Table):
        rows = rows.to_pandas()
    return sorted(rows["studyInstanceUid"])


@pytest.mark.parametrize("annotation", ROW_TYPES)
def test_hourly_asset_gets_its_hour(lake, annotation):
    rows = load(lake, annotation, partition="2026-03-02-00:00", partitions_def=HOURS)
    assert isinstance(rows, annotation)
    assert studies(rows) == ["24"]


@pytest.mark.parametrize("annotation", ROW_TYPES)
def test_daily_asset_gets_the_hours_of_its_day_that_the_service_has(lake, annotation):
    kept = {
        "partitions_def": DAYS,
        "mapping": dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True),
    }
    assert studies(load(lake, annotation, partition="2026-03-01", **kept)) == ["22", "23"]
    assert studies(load(lake, annotation, partition="2026-03-02", **kept)) == ["24", "25"]
    assert studies(load(lake, annotation, partition="2026-03-03", **kept)) == []


def test_day_that_lacks_hours_is_refused_by_dagster_unless_the_mapping_allows_it(lake):
    with pytest.raises(dg.DagsterInvariantViolationError, match="invalid partitions"):
        load(lake, pa.Table, partition="2026-03-01", partitions_def=DAYS)


@pytest.mark.parametrize("annotation", ROW_TYPES)
def test_asset_without_partitions_gets_the_whole_table(lake, annotation):
    store(lake, study("early", lastModifiedTimestamp=START))  # from before the first hour, which was moved
    assert studies(load(lake, annotation)) == ["22", "23", "24", "25", "early"]


@pytest.mark.parametrize("annotation", ROW_TYPES)
def test_hours_that_are_not_adjacent_are_loaded_without_those_between(lake, annotation):
    keys = [f"{hour:{PARTITION_FORMAT}}" for hour in (FIRST, LAST - HOUR)]
    rows = load(lake, annotation, mapping=dg.SpecificPartitionsPartitionMapping(keys))
    assert studies(rows) == ["22", "25"]


@pytest.mark.parametrize("source", ["change_feed", "study"])
def test_only_files_that_may_hold_rows_of_the_hour_are_read(lake, source, monkeypatch):
    read = []
    folder = type(lake.open(STUDY).folder)
    read_each = folder.read_each

    def spy(self, files, schema):
        read.extend(files)
        return read_each(self, files, schema)

    monkeypatch.setattr(folder, "read_each", spy)
    assert len(load(lake, pa.Table, source, partition="2026-03-01-23:00", partitions_def=HOURS)) == 1
    assert len(read) == 1


def test_loading_a_table_that_does_not_exist_yet_does_not_create_it(tmp_path):
    lake = build_lake(tmp_path)
    for annotation in ROW_TYPES:
        assert studies(load(lake, annotation)) == []
    assert lake.open(STUDY) is None


@pytest.mark.parametrize("annotation", [list, str, pl.Series, pa.RecordBatch, dict[str, pa.Table]])
def test_other_annotations_are_refused_with_those_that_can_be_loaded(lake, annotation):
    with pytest.raises(dg.DagsterInvariantViolationError) as caught:
        load(lake, annotation)
    assert "input it" in str(caught.value)
    assert "dicom/study" in str(caught.value)
    assert all(name in str(caught.value) for name in LOADERS)


@pytest.mark.parametrize("annotation", [pd.DataFrame, pl.DataFrame, pl.LazyFrame])
def test_missing_package_is_named_with_the_extra_that_brings_it(lake, annotation, monkeypatch):
    package = annotation.__module__.partition(".")[0]
    if package == "pandas":  # loaded by pyarrow, which asks only once

        def refuse(self):
            raise ModuleNotFoundError("No module named 'pandas'")

        monkeypatch.setitem(LOADERS, "pandas.DataFrame", lambda *_: refuse(None))
    else:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(dg.DagsterInvariantViolationError) as caught:
        load(lake, annotation)
    assert f"dicom-assets[{package}]" in str(caught.value)
