"""`examples/columns.toml` through the whole chain, its values held against what pydicom reads in the same files."""

from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import QueryBuilder
from pydicom.dataset import Dataset

from dicom_assets.config.column_file import load_columns
from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import INSTANCE, TABLES
from dicom_assets.definitions import build_definitions
from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import tolerant
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.law.world import START, environment_of, read_tables

EXAMPLE = Path(__file__).parents[2] / "examples" / "columns.toml"
HOUR = "2026-03-01-00:00"
RULES = {
    "sliceThickness": lambda file: number(file.get("SliceThickness")),
    "kvp": lambda file: number(file.get("KVP")),
    "contrastAgent": lambda file: text(file.get("ContrastBolusAgent")),
    "stationName": lambda file: text(file.get("StationName")),
    "protocol": lambda file: text(file.get("ProtocolName")),
    "institution": lambda file: text(file.get("InstitutionName")),
    "requestedProcedureCode": lambda file: text(ordered(file).get("CodeValue")),
    "pixelSpacing": lambda file: [float(value) for value in file.get("PixelSpacing") or ()] or None,
    "transferSyntax": lambda file: [file.AvailableTransferSyntaxUID] if "AvailableTransferSyntaxUID" in file else None,
    "viewPosition": lambda file: text(file.get("ViewPosition")),
}
"""What a column shows of a file, written down once more with pydicom's own words for it."""


def number(value):
    return None if value in (None, "") else float(value)


def text(value):
    return str(value) if value else None


def ordered(file: Dataset) -> Dataset:
    requests = file.get("RequestAttributesSequence") or [Dataset()]
    codes = requests[0].get("RequestedProcedureCodeSequence") or [Dataset()]
    return codes[0]


def complete(file: Dataset) -> Dataset:
    """The same file with all ten elements, of which no bundled one has more than some."""
    file = deepcopy(file)
    file.SOPInstanceUID += ".1"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.SliceThickness, file.KVP, file.PixelSpacing = "2.5", "110", ["0.25", "0.75"]
    file.ContrastBolusAgent, file.StationName, file.ProtocolName = "Gadobutrol", "MR-2", "Knie links"
    file.InstitutionName, file.ViewPosition = "Spital Größ", "LL"
    file.AvailableTransferSyntaxUID = file.file_meta.TransferSyntaxUID
    code, request, empty = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "MRKNIE", "99RIS", "Knee"
    request.RequestedProcedureCodeSequence, empty.RequestedProcedureCodeSequence = [code], []
    file.RequestAttributesSequence = [request, empty]
    return file


@pytest.fixture(scope="module")
def files() -> dict[str, Dataset]:
    """pydicom's files by SOP instance UID, and one more."""
    found = [file.dataset() for file in bundled_files()]
    whole = next(file for file in found if file.get("Modality") == "MR" and "PixelSpacing" in file)
    return {file.SOPInstanceUID: file for file in [*found, complete(whole)]}


def materialize(settings: Settings, *names: str) -> None:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        selection = [dg.AssetKey(name) for name in names] or None
        assert job.execute_in_process(instance=instance, partition_key=HOUR, asset_selection=selection).success


@pytest.fixture(scope="module")
def lakes(files, tmp_path_factory) -> dict[str, Lake]:
    """A lake that had the columns from the start, and one to which they were added when the service was gone."""
    folder = tmp_path_factory.mktemp("columns")
    with Service(seed=1, file_store=folder / "files") as service:
        for second, file in enumerate(files.values()):
            service.store(file, at=START + timedelta(seconds=second))
        with serve(service) as url:
            plain = {
                **environment_of(url, 1),
            }
            columns = plain | {"DICOM_EXTRA_COLUMNS": str(EXAMPLE)}
            at_once = load_settings(columns | {"DICOM_STORAGE_URL": str(folder / "fresh")})
            materialize(at_once)
            materialize(load_settings(plain | {"DICOM_STORAGE_URL": str(folder / "later")}))
    later = load_settings(columns | {"DICOM_STORAGE_URL": str(folder / "later")})
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    materialize(later, "instance", "series", "study", "file_index")
    return {"at once": build_lake(at_once), "later": build_lake(later)}


@pytest.mark.parametrize("name", RULES)
def test_values_are_those_that_pydicom_reads(name, files, lakes):
    rows = read_tables(lakes["at once"])["instance"]
    assert len(rows) == len(files) > 100
    found = {row["sopInstanceUid"]: row[name] for row in rows}
    with tolerant():
        assert found == {uid: RULES[name](file) for uid, file in files.items()}
    assert any(value is not None for value in found.values())


def test_the_example_has_the_ten_columns():
    assert [column.name for column, _ in load_columns(EXAMPLE)] == list(RULES)


def test_columns_that_are_added_later_have_the_same_values_without_the_service(lakes):
    assert read_tables(lakes["later"]) == read_tables(lakes["at once"])


def test_columns_are_in_the_tables_of_their_grain(lakes):
    own = {table.name: table.schema.names for table in TABLES}
    added = {name: [column for column in rows[0] if column not in own[name]] for name, rows in
             read_tables(lakes["later"]).items()}  # fmt: skip
    assert added == {
        "instance": list(RULES),
        "series": ["stationName", "protocol", "institution"],
        "study": ["institution"],
        "file_index": [],
    }


def test_series_and_studies_show_what_their_newest_instance_says(lakes):
    tables = read_tables(lakes["later"])
    for name, key, columns in [
        ("series", "seriesInstanceUid", ["stationName", "protocol", "institution"]),
        ("study", "studyInstanceUid", ["institution"]),
    ]:
        newest = {row[key]: row for row in sorted(tables["instance"], key=lambda row: row["sequence"])}
        for row in tables[name]:
            assert [row[column] for column in columns] == [newest[row[key]][column] for column in columns]


READERS = {
    "deltalake": lambda table: pa.table(
        QueryBuilder().register("instance", table).execute("SELECT * FROM instance WHERE kvp > 100").read_all()
    ).to_pylist(),
    "polars": lambda table: pl.scan_delta(table).filter(pl.col("kvp") > 100).collect().to_dicts(),
    "pyarrow": lambda table: table.to_pyarrow_dataset().to_table(filter=ds.field("kvp") > 100).to_pylist(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("which", ["at once", "later"])
def test_every_reader_filters_by_them_and_reads_lists(reader, which, lakes):
    table = lakes[which].open(INSTANCE).connect()
    expected = [row for row in read_tables(lakes[which])["instance"] if (row["kvp"] or 0) > 100]
    found = READERS[reader](table)
    assert len(found) == len(expected) > 3
    key = lambda row: row["sopInstanceUid"]  # noqa: E731
    for row, wanted in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert (row["pixelSpacing"], row["transferSyntax"]) == (wanted["pixelSpacing"], wanted["transferSyntax"])


def test_real_spark_filters_by_them_and_reads_lists(lakes, spark):
    spark.sql(f"CREATE TABLE instance USING delta LOCATION '{lakes['later'].uri(INSTANCE)}'")
    rows = spark.sql("SELECT sopInstanceUid, kvp, pixelSpacing[1] FROM instance WHERE kvp > 100").collect()
    expected = [row for row in read_tables(lakes["later"])["instance"] if (row["kvp"] or 0) > 100]
    assert {tuple(row) for row in rows} == {
        (row["sopInstanceUid"], row["kvp"], row["pixelSpacing"] and row["pixelSpacing"][1]) for row in expected
    }


def test_columns_in_the_delta_table_say_where_they_come_from(lakes):
    field = pa.schema(lakes["later"].open(INSTANCE).connect().schema().to_arrow()).field("kvp")
    assert field.metadata == {b"comment": b"Peak kilovoltage (00180060)"}


def test_a_type_that_is_changed_later_fails_the_run_and_says_what_to_do(lakes, tmp_path):
    file = tmp_path / "columns.toml"
    file.write_text(EXAMPLE.read_text().replace('tag = "KVP"', 'tag = "KVP", type = "string"'))
    storage = str(Path(lakes["later"].uri(INSTANCE)).parents[1])
    settings = load_settings({"DICOM_EXTRA_COLUMNS": str(file), "DICOM_STORAGE_URL": storage})
    with pytest.raises(dg.Failure, match=r'kvp of DICOM_EXTRA_COLUMNS .* set type = "double" again'):
        materialize(settings, "instance")
