"""Moving over from the Azure Data Factory template: what becomes of its tables, made here by hand in its layout.

Source: "Copy DICOM Metadata Changes to ADLS Gen2 in Delta Format" in https://github.com/Azure/Azure-DataFactory at
57be51315fa90c3a1af1fee0d3974100944c3ca8, the columns of its three sinks; the older layout of `instance` has the names
of the article's notebooks (`sopInstanceUid`, `filePath`). Spark lets every column be null, and may partition by key.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import INSTANCE, SERIES, STUDY, TABLES
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.definitions import build_definitions
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.lakes.building import read
from dicom_assets_tests.law.world import environment_of

START = datetime(2026, 3, 1, tzinfo=UTC)
RANGE = {
    "dagster/asset_partition_range_start": "2026-03-01-00:00",
    "dagster/asset_partition_range_end": "2026-03-01-02:00",
}
ATTRIBUTES = ["studyDescription", "issuerOfPatientId", "patientId", "patientName", "modality", "sopClassUid"]
TEXTS = [
    *("patientBirthDate", "accessionNumber", "referringPhysicianName", "modalitiesInStudy"),
    *("performedProcedureStepStartDate", "manufacturerModelName", "studyTime", "timezoneOffsetFromUtc"),
    *("numberOfStudyRelatedSeries", "numberOfStudyRelatedInstances", "seriesNumber", "seriesDescription"),
    *("numberOfSeriesRelatedInstances", "bodyPartExamined", "laterality", "seriesDate", "seriesTime", "instanceNumber"),
    "documentTitle",
]
METADATA = pa.map_(pa.string(), pa.struct([("vr", pa.string()), ("Value", pa.list_(pa.string()))]))
MOMENT = pa.timestamp("us", "UTC")


def fields(*names: str, of: pa.DataType | None = None) -> list[pa.Field]:
    return [pa.field(name, of or pa.string()) for name in names]


def lower(columns: list[pa.Field]) -> list[pa.Field]:
    return [field.with_name(field.name.lower()) for field in columns]


KEYS = {
    "instance": fields("studyInstanceUid", "seriesInstanceUid", "sopInstanceUid"),
    "series": fields("studyInstanceUid", "seriesInstanceUid"),
    "study": fields("studyInstanceUid"),
}
FIRST, CHANGED = fields("partitionName"), fields("lastModifiedTimestamp", of=MOMENT)
SUMMED = [*fields("studyDate", of=pa.date32()), *fields(*ATTRIBUTES[:4])]
LAYOUTS = {
    "gallery": {
        "instance": [
            *FIRST,
            *lower(KEYS["instance"]),
            *CHANGED,
            *fields("studydate"),
            *fields("studydate_formatted", of=pa.date32()),
            *lower(fields(*ATTRIBUTES)),
            *fields("filepath"),
            *fields("metadata", of=METADATA),
            *fields("metadata_string"),
            *fields("created_date", of=MOMENT),
            *lower(fields(*TEXTS)),
        ],
    },
    "article": {
        "instance": [
            *FIRST,
            *KEYS["instance"],
            *CHANGED,
            *fields("studyDate", of=pa.date32()),
            *fields(*ATTRIBUTES, "filePath"),
        ],
    },
}
for layout in LAYOUTS.values():
    layout["series"] = [
        *FIRST,
        *KEYS["series"],
        *CHANGED,
        *SUMMED,
        *fields("modality"),
        *fields("instanceCount", of=pa.int64()),
    ]
    layout["study"] = [
        *FIRST,
        *KEYS["study"],
        *CHANGED,
        *SUMMED,
        *fields("seriesCount", "instanceCount", of=pa.int64()),
    ]


def row(columns: list[pa.Field], study: str, number: int) -> dict:
    """What the template would have written of an instance, its series or its study."""
    values = {
        "partitionname": "Microsoft.Default",
        "studyinstanceuid": study,
        "seriesinstanceuid": f"{study}.1",
        "sopinstanceuid": f"{study}.1.{number}",
        "lastmodifiedtimestamp": START,
        "filepath": f"AHDS/{number}.dcm",
        "patientname": "ZZPATIENTZZ",
        "modality": "CT",
    }
    kinds = {pa.int64(): 1, pa.date32(): date(2026, 3, 1), MOMENT: START, METADATA: []}
    return {field.name: values.get(field.name.lower(), kinds.get(field.type)) for field in columns}


@pytest.fixture
def service():
    """Two studies; the last instance of study 2 is deleted in hour 1, a third study comes in hour 2."""
    with Service(seed=1) as service:
        for number, study, hour in [(1, "1.1", 0), (2, "1.1", 0), (3, "1.2", 0), (4, "1.3", 2)]:
            metadata = {
                "0020000D": {"vr": "UI", "Value": [study]},
                "0020000E": {"vr": "UI", "Value": [f"{study}.1"]},
                "00080018": {"vr": "UI", "Value": [f"{study}.1.{number}"]},
                "00080060": {"vr": "CS", "Value": ["CT"]},
            }
            at = START + timedelta(hours=hour, minutes=number)
            service.store_metadata(metadata, at=at, file_path=f"AHDS/{number}.dcm")
            if number == 3:
                service.delete("1.2", at=START + timedelta(hours=1))
        yield service


EVERY_LAYOUT = [(name, partitioned) for name in LAYOUTS for partitioned in (False, True)]


@pytest.fixture
def old(request, tmp_path) -> Path:
    """The template's tables: of study 1, and of study 2, whose row stays there for ever."""
    name, partitioned = request.param
    folder = tmp_path / "lake" / "dicom"
    for table, columns in LAYOUTS[name].items():
        kept = [("1.1", 1), ("1.1", 2)] if table == "instance" else [("1.1", 1), ("1.2", 3)]
        rows = pa.Table.from_pylist([row(columns, *each) for each in kept], pa.schema(columns))
        write_deltalake(folder / table, rows, partition_by=["partitionName"] if partitioned else None)
    return folder


@pytest.fixture
def url(service):
    with serve(service) as url:
        yield url


def settings_of(url: str, tmp_path: Path, **more: str) -> Settings:
    return load_settings(
        {
            **environment_of(url, 3),
            "DICOM_STORAGE_URL": str(tmp_path / "lake"),
            **more,
        }
    )


def backfill(settings: Settings, tmp_path: Path) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        return job.execute_in_process(instance=instance, tags=RANGE, raise_on_error=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def check_rebuilt(settings: Settings) -> None:
    """The tables as the feed has them: without study 2, and with what came after the template's last run."""
    lake = build_lake(settings)
    paths = {(each["sopInstanceUid"], each["filePath"]) for each in read(lake, INSTANCE)}
    assert paths == {("1.1.1.1", "AHDS/1.dcm"), ("1.1.1.2", "AHDS/2.dcm"), ("1.3.1.4", "AHDS/4.dcm")}
    assert [(each["studyInstanceUid"], each["instanceCount"]) for each in read(lake, SERIES)] == [
        ("1.1", 2),
        ("1.3", 1),
    ]
    assert [(each["studyInstanceUid"], each["seriesCount"]) for each in read(lake, STUDY)] == [("1.1", 1), ("1.3", 1)]


@pytest.mark.parametrize("old", EVERY_LAYOUT, ids=str, indirect=True)
def test_templates_tables_are_refused_and_not_touched(old, tmp_path):
    before = content(old)
    lake = build_lake(settings_of("http://127.0.0.1:1", tmp_path))
    for table in (INSTANCE, SERIES, STUDY):
        with pytest.raises(ForeignTableError) as caught:
            lake.open_or_create(table)
        message = str(caught.value)
        assert message.startswith(f"The table at {old / table.name} is not the {table.name} table of this project: it")
        assert "Nothing was written to it. Move it away, or choose another place with DICOM_" in message
        assert "ZZPATIENTZZ" not in message
    assert content(old) == before


@pytest.mark.parametrize("old", [("article", False)], ids=str, indirect=True)
def test_run_over_the_templates_tables_fails_and_leaves_them_as_they_are(old, url, tmp_path):
    before = content(old)
    assert not backfill(settings_of(url, tmp_path), tmp_path).success
    after = content(old)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"change_feed"}  # which is nobody else's


@pytest.mark.parametrize("old", [("gallery", False)], ids=str, indirect=True)
def test_tables_are_rebuilt_beside_the_templates(old, url, tmp_path):
    beside = {f"DICOM_{table.name.upper()}_TABLE_PATH": f"lake/{table.name}" for table in TABLES}
    settings = settings_of(url, tmp_path, **beside)
    before = content(old)
    assert backfill(settings, tmp_path).success
    check_rebuilt(settings)
    after = content(old)
    assert {name: after[name] for name in before} == before
    # The template's readers still find what was there.
    assert DeltaTable(old / "study").to_pyarrow_table().num_rows == 2


@pytest.mark.parametrize("old", [("article", True)], ids=str, indirect=True)
def test_templates_tables_are_moved_away_and_their_places_taken(old, url, tmp_path):
    settings = settings_of(url, tmp_path)
    before = content(old)
    for table in ("instance", "series", "study"):
        (old / table).rename(old / f"{table}_template")
    assert backfill(settings, tmp_path).success
    check_rebuilt(settings)
    after = content(old)
    moved = {name.replace("/", "_template/", 1): value for name, value in before.items()}
    assert {name: after[name] for name in moved} == moved
    assert (
        DeltaTable(old / "series_template").to_pyarrow_table().num_rows == 2
    )  # a Delta table may be moved as a folder
