from collections import Counter
from datetime import timedelta
from typing import ClassVar

import dagster as dg
import deltalake
import polars as pl
import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, STUDY, TABLES
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.partitions import PARTITION_FORMAT, build_partitions
from dicom_assets.defs.runs.observed import Observed
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.core.tables.rows import START, build_rows, entry
from dicom_assets_tests.lakes.building import Wanted, build_lake, read, store, study

# dagster calls a run over several partitions a beta feature, and it is what the tables are filled with
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

HOURS = build_partitions(START, START + 4 * HOUR)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path / "lake")


def run(lake: Lake, *assets: dg.AssetsDefinition, hours: tuple[int, int] | None = None) -> dg.ExecuteInProcessResult:
    """Materialises assets, for the hours from the first to the last."""
    how: dict = {}
    if hours is not None:
        first, last = ((START + hour * HOUR).strftime(PARTITION_FORMAT) for hour in hours)
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        how = {"partition_key": first} if first == last else {"tags": tags}
    manager = DeltaIOManager(lake, {dg.AssetKey(table.name): table for table in TABLES})
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(assets, resources={"delta": manager}, instance=instance, **how)


def output(value, name: str = "study") -> dg.AssetsDefinition:
    @dg.asset(name=name, io_manager_key="delta")
    def produce() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=value() if callable(value) else value)

    return produce


def metadata_of(result: dg.ExecuteInProcessResult, name: str = "study") -> dict:
    (event,) = result.asset_materializations_for_node(name)
    return {key: value.value for key, value in event.metadata.items()}


def rows_of(*uids: str, **columns) -> pa.Table:
    return build_rows([study(uid, **columns) for uid in uids], STUDY)


# Outputs


@pytest.mark.parametrize(
    "value",
    [
        lambda: rows_of("1", "2"),
        lambda: rows_of("1", "2").to_reader(),
        lambda: iter([rows_of("1"), rows_of("2")]),
        lambda: [rows_of(), rows_of("1", "2")],
        lambda: Wanted([study("1"), study("2")]),
    ],
    ids=["table", "reader", "iterator", "list", "derivation"],
)
def test_output_is_stored_and_told(lake, value):
    metadata = metadata_of(run(lake, output(value)))
    assert [row["studyInstanceUid"] for row in read(lake)] == ["1", "2"]
    assert metadata.keys() == {
        "dagster/row_count", "rows_inserted", "rows_updated", "rows_deleted", "commits", "commits_lost",
        "bytes_written", "table_version", "table_id", "table_size_bytes", "table_files",
        "seconds/derive", "seconds/merge", "seconds/commit", "seconds/join", "seconds/cpu",
    }  # fmt: skip
    assert (metadata["dagster/row_count"], metadata["rows_inserted"]) == (2, 2)
    assert metadata["table_version"] == metadata["commits"] == metadata["table_files"]
    assert metadata["bytes_written"] == metadata["table_size_bytes"] > 0


def test_output_without_a_table_creates_an_empty_one(lake):
    assert metadata_of(run(lake, output(list)))["dagster/row_count"] == 0
    assert read(lake) == []


def test_rows_of_other_keys_are_left_alone(lake):
    run(lake, output(rows_of("1", "2")))
    metadata = metadata_of(run(lake, output(rows_of("2", "3", patientSex="F"))))
    assert (metadata["rows_inserted"], metadata["rows_updated"], metadata["dagster/row_count"]) == (1, 1, 3)


def test_values_that_could_not_be_converted_are_told(lake):
    class Failing(Wanted):
        failures: ClassVar = Counter(rows=2, metadata=1)

    changes = FeedWindow(lake, Window(START, START + HOUR))
    metadata = metadata_of(run(lake, output(lambda: Observed(changes, lambda part: Failing([study("1")])))))
    assert {key: value for key, value in metadata.items() if key.startswith("conversion")} == {
        "conversion_failures": 3,
        "conversion_failures/rows": 2,
        "conversion_failures/metadata": 1,
    }
    assert metadata["preview"].startswith("| lastModifiedTimestamp | modalitiesInStudy |")


@pytest.mark.parametrize("key", [["reports"], ["research", "study"]], ids="/".join)
def test_asset_without_a_table_is_an_error_that_names_its_key_and_nothing_is_written(lake, key):
    @dg.asset(key=key, io_manager_key="delta")
    def foreign() -> pa.Table:
        return rows_of("1")

    with pytest.raises(dg.DagsterInvariantViolationError) as caught:
        run(lake, foreign)
    assert f"no table for the asset {'/'.join(key)}" in str(caught.value)
    assert "io_manager_key" in str(caught.value)
    assert lake.open(STUDY) is None


# Data versions


def test_data_version_changes_with_the_rows_alone(lake):
    wanted = []

    @dg.asset(name="study", io_manager_key="delta", partitions_def=HOURS)
    def produce() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=rows_of(*wanted))

    key, manager = dg.AssetKey("study"), DeltaIOManager(lake, {dg.AssetKey("study"): STUDY})

    def materialise(hour: int, **how) -> str:
        partition = (START + hour * HOUR).strftime(PARTITION_FORMAT)
        kept = {"resources": {"delta": manager}, "instance": instance, "partition_key": partition}
        assert dg.materialize([produce], **kept, **how).success
        (record,) = instance.fetch_materializations(key, limit=1).records
        return record.asset_materialization.tags["dagster/data_version"]

    with dg.DagsterInstance.ephemeral() as instance:
        first = materialise(0)
        assert first == f"{lake.open(STUDY).table_id}@{lake.open(STUDY).version}"
        wanted.append("1")
        changed = materialise(0)
        assert changed == f"{lake.open(STUDY).table_id}@{lake.open(STUDY).version}" != first
        wanted.append("2")
        assert materialise(1) not in (first, changed)
        assert materialise(0) == changed, "nothing was committed: the hour's own earlier version"
        again = materialise(0, tags={"dicom_assets/attempt": "2"})
        assert again != changed, "the attempt before may have written rows"


def test_hours_of_a_range_share_a_data_version_that_a_repetition_keeps(lake):
    @dg.asset(
        name="study", io_manager_key="delta", partitions_def=HOURS, backfill_policy=dg.BackfillPolicy.single_run()
    )
    def produce() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=rows_of("1"))

    first, last = ((START + hour * HOUR).strftime(PARTITION_FORMAT) for hour in (0, 2))
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    manager = DeltaIOManager(lake, {dg.AssetKey("study"): STUDY})
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            assert dg.materialize([produce], resources={"delta": manager}, instance=instance, tags=tags).success
        records = instance.fetch_materializations(dg.AssetKey("study"), limit=10).records
    assert len(records) == 6
    assert len({record.asset_materialization.tags["dagster/data_version"] for record in records}) == 1


# Inputs


def load(
    lake: Lake, annotation, hours: tuple[int, int] | None = None, source: str = "change_feed", convert=lambda it: it
):
    """What an asset gets that takes a table of the lake."""
    got = []
    partitions = HOURS if hours else None
    upstream = dg.AssetSpec(source, partitions_def=partitions).with_io_manager_key("delta")

    @dg.asset(partitions_def=partitions, ins={"it": dg.AssetIn(source)}, backfill_policy=dg.BackfillPolicy.single_run())
    def take(it: annotation) -> None:
        got.append(convert(it))

    run(lake, upstream, take, hours=hours)
    return got[0]


@pytest.fixture
def filled(lake) -> Lake:
    for hour in range(4):
        store(lake, entry(3600 * hour + 7, metadata={"n": hour}), table=CHANGE_FEED)
        store(lake, study(str(hour), lastModifiedTimestamp=START + timedelta(hours=hour, minutes=59)))
    return lake


def sequences(rows: pa.Table) -> list[int]:
    return sorted(rows["sequence"].to_pylist())


@pytest.mark.parametrize(
    ("annotation", "convert"),
    [
        (pa.Table, sequences),
        (pa.RecordBatchReader, lambda reader: sequences(reader.read_all())),
        (pl.LazyFrame, lambda frame: sequences(frame.collect().to_arrow())),
    ],
    ids=["table", "reader", "lazy"],
)
@pytest.mark.parametrize(("hours", "found"), [(None, [0, 1, 2, 3]), ((2, 2), [2]), ((1, 2), [1, 2])])
def test_rows_of_the_runs_hours_are_loaded_as_annotated(filled, annotation, convert, hours, found):
    assert load(filled, annotation, hours, convert=convert) == [3600 * hour + 7 for hour in found]


def test_hour_of_a_row_without_a_window_is_that_of_its_newest_change(filled):
    rows = load(filled, pa.Table, (1, 2), source="study")
    assert sorted(rows["studyInstanceUid"].to_pylist()) == ["1", "2"]
    assert rows.schema.equals(STUDY.schema)


def test_table_is_loaded_where_nothing_is_annotated(filled):
    assert len(load(filled, object)) == 4


@pytest.mark.parametrize("annotation", [pa.Table, pl.LazyFrame])
def test_of_tables_that_services_share_the_rows_of_one_are_loaded(tmp_path, annotation):
    north, south = (build_lake(tmp_path, service=name) for name in ("north", "south"))
    store(north, study("1", lastModifiedTimestamp=START))
    store(south, study("2", lastModifiedTimestamp=START))
    rows = load(
        north,
        annotation,
        (0, 0),
        source="study",
        convert=lambda found: found.lazy().collect().to_arrow() if annotation is pl.LazyFrame else found,
    )
    assert rows["studyInstanceUid"].to_pylist() == ["1"]
    assert rows.column_names == STUDY.schema.names


def test_delta_table_is_loaded_whole(filled):
    table = load(filled, deltalake.DeltaTable, (1, 1))
    assert (table.version(), len(table.file_uris())) == (4, 4)


def test_hours_are_given_and_nothing_is_read(lake):
    of = load(lake, FeedWindow, (1, 2))
    assert of == FeedWindow(lake, Window(START + HOUR, START + 3 * HOUR))
    assert lake.open(CHANGE_FEED) is None


@pytest.mark.parametrize("annotation", [pa.Table, pa.RecordBatchReader, pl.LazyFrame, deltalake.DeltaTable])
def test_table_that_does_not_exist_yet_is_empty(lake, annotation):
    def count(it) -> int:
        match it:
            case pl.LazyFrame():
                return it.collect().height
            case deltalake.DeltaTable():
                return len(it.file_uris())
            case pa.RecordBatchReader():
                return it.read_all().num_rows
        return len(it)

    assert load(lake, annotation, convert=count) == 0


def test_hours_of_an_asset_without_hours_are_an_error(filled):
    with pytest.raises(dg.DagsterInvariantViolationError, match="FeedWindow change_feed needs an asset with hourly"):
        load(filled, FeedWindow)
