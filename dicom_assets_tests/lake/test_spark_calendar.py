"""Dates before 1582: each file names its calendar to Spark 3.5, and upkeep writes anew the files that do not."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY, TIMESTAMP, extend_tables
from dicom_assets.lake import upkeep
from dicom_assets.lake.files import parquet
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.files.parquet import CALENDAR, EncodedRows, Spool
from dicom_assets.lake.spark.staging import Staging
from dicom_assets.lake.spark_calendar import FIRST_DATE, FIRST_TIME, find_refused
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table import delta
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.core.tables.rows import entry
from dicom_assets_tests.lakes.building import (
    FarStorage,
    Wanted,
    as_before_calendars,
    build_lake,
    contents,
    data_files,
    instance_of,
    live_files,
    read,
    store,
    study,
)

BORN = {"patientBirthDate": date(1, 1, 1)}
DAY = timedelta(days=1)
COLUMNS = """
[columns]
acquired = { tag = "AcquisitionDateTime", type = "timestamp" }
calibrated = { tag = "DateOfLastCalibration", type = "date", grain = "study" }
"""


@pytest.fixture
def lake(tmp_path) -> Lake:
    return build_lake(tmp_path / "lake")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(delta.secrets, "randbelow", lambda most: 0)


def store_as_before(lake: Lake, *rows: dict, table=STUDY) -> None:
    with as_before_calendars():
        store(lake, *rows, table=table)


@pytest.fixture
def extended(tmp_path):
    """Tables with columns of a user's that hold dates and times."""
    columns = tmp_path / "columns.toml"
    columns.write_text(COLUMNS)
    extra = load_settings({"DICOM_EXTRA_COLUMNS": str(columns)}).extra_columns
    return {table.name: table for table in extend_tables(extra)}


def names_calendar(lake: Lake, table=STUDY) -> dict[str, bool]:
    """By live file, whether its footer has the key."""
    return {name: has_key(Path(lake.uri(table), name)) for name in live_files(lake, table)}


def has_key(source) -> bool:
    found = pq.read_metadata(source).metadata
    return all(found.get(key.encode()) == value.encode() for key, value in CALENDAR.items())


def refused(lake: Lake, table=STUDY) -> int:
    return len(find_refused(lake.open(table)))


def maintained(lake: Lake, table=STUDY) -> int:
    done = maintain(lake, table)
    assert done.is_complete
    return done.files_marked_for_spark


# Writing


def test_every_file_names_its_calendar_and_no_schema_does(lake, tmp_path):
    store(lake, study("1.1", **BORN))
    store(lake, entry(1), table=CHANGE_FEED)
    assert set({**names_calendar(lake), **names_calendar(lake, CHANGE_FEED)}.values()) == {True}
    rows = lake.open(STUDY).read_table()
    assert rows.schema.metadata is None
    assert pq.read_table(Path(lake.uri(STUDY), live_files(lake).pop())).schema.metadata is None

    spool = Spool(STUDY.schema)
    spool.add(rows)
    (content,) = spool.take()
    assert has_key(pa.BufferReader(content))
    decoded = EncodedRows(rows, [content]).decode()
    assert decoded.rows.equals(rows, check_metadata=True)

    staging = Staging(lake.storage, "study")
    assert has_key(staging.uri(staging.put(Wanted([study("1.1")]).desired, STUDY)))


def test_key_is_one_by_which_spark_takes_dates_and_times_as_they_are():
    """Spark compares the versions as texts: from 3.0.0 on for dates and times, from 3.1.0 on for INT96."""
    assert CALENDAR["org.apache.spark.version"] >= "3.1.0"
    assert not [key for key in CALENDAR if "legacy" in key]


def test_times_that_spark_stored_as_int96_are_read_from_the_year_1_on(tmp_path):
    times = pa.array([datetime(year, 1, 1, 1, 2, 3, 456789, UTC) for year in (1, 1111, 2026, 9999)], TIMESTAMP)
    folder = tmp_path / "t"
    folder.mkdir()
    pq.write_table(pa.table({"at": times}), folder / "a.parquet", use_deprecated_int96_timestamps=True)
    files = Files(Storage(str(tmp_path)), "t")
    file = DataFile("a.parquet", (folder / "a.parquet").stat().st_size, 4)
    schema = pa.schema([("at", TIMESTAMP)])
    assert files.read(file, schema)["at"].combine_chunks().equals(times)
    assert pa.concat_tables(files.stream(file, schema))["at"].combine_chunks().equals(times)


# Finding


@pytest.mark.parametrize(
    ("columns", "is_refused"),
    [
        ({"patientBirthDate": date(1, 1, 1)}, True),
        ({"studyDate": FIRST_DATE - DAY}, True),
        ({"studyDate": FIRST_DATE}, False),
        ({"studyDate": date(2026, 3, 1)}, False),
        ({"lastModifiedTimestamp": FIRST_TIME - DAY}, True),
        ({"lastModifiedTimestamp": FIRST_TIME}, False),
        ({}, False),
    ],
)
def test_files_with_ancient_values_and_without_the_key_are_found(lake, columns, is_refused):
    store_as_before(lake, study("1.1"), study("1.2", **columns))
    assert refused(lake) == is_refused
    assert maintained(lake) == is_refused
    store(lake, study("1.3", **columns))
    assert refused(lake) == 0


def test_table_without_a_file_has_none(lake):
    lake.open_or_create(STUDY)
    assert refused(lake) == maintained(lake) == 0


def test_files_without_statistics_are_judged_by_their_footers(lake, monkeypatch):
    monkeypatch.setattr(parquet, "columns_with_statistics", lambda _: [])
    store_as_before(lake, study("1.1", studyDate=date(2026, 3, 1)))
    store_as_before(lake, study("1.2", **BORN))
    store_as_before(lake, study("1.3", studyDate=None))
    (found,) = find_refused(lake.open(STUDY))
    assert [row["studyInstanceUid"] for row in lake.open(STUDY).read_table(files=[found]).to_pylist()] == ["1.2"]


def test_column_that_came_later_makes_no_file_ancient_that_has_none(lake, extended):
    store_as_before(lake, instance_of("1.1", 1), table=INSTANCE)
    old = live_files(lake, INSTANCE)
    store_as_before(lake, instance_of("1.2", 2, acquired=datetime(1111, 1, 1, tzinfo=UTC)), table=extended["instance"])
    assert {file.name for file in find_refused(lake.open(extended["instance"]))} == live_files(lake, INSTANCE) - old
    store_as_before(lake, study("1.1", calibrated=date(1, 1, 1)), table=extended["study"])
    assert refused(lake, extended["study"]) == 1


def test_files_that_delta_rs_compacted_are_found(lake):
    store(lake, study("1.1", **BORN))
    store(lake, study("1.2"))
    DeltaTable(lake.uri(STUDY)).optimize.compact()
    assert refused(lake) == 1
    assert maintained(lake) == 1
    assert set(names_calendar(lake).values()) == {True}


def test_footers_of_an_account_are_read_too(tmp_path):
    lake = build_lake(tmp_path / "lake", kind=FarStorage)
    for number in range(4):
        store_as_before(lake, study(f"1.{number}", **BORN))
    assert refused(lake) == 4


# Upkeep


@pytest.fixture
def unjoined(monkeypatch):
    """Small files stay as they are."""
    monkeypatch.setattr(upkeep, "choose_files", lambda _: [])


@pytest.mark.usefixtures("unjoined")
def test_upkeep_writes_them_anew_without_a_change_of_data_and_once(lake, tmp_path):
    for number in range(3):
        store_as_before(lake, study(f"1.{number}", **BORN))
    store_as_before(lake, study("2.1"))
    rows, version, files = read(lake), lake.version(STUDY), live_files(lake)
    planned = maintain(lake, STUDY, dry_run=True)
    assert lake.version(STUDY) == version
    done = maintain(lake, STUDY)
    assert (planned.files_marked_for_spark, done.files_marked_for_spark, done.is_complete) == (3, 3, True)
    assert planned.after.stored_files == done.after.stored_files
    assert (planned.after.live_files, done.after.live_files) == (4, 4)
    assert read(lake) == rows
    assert refused(lake) == 0
    assert len(files & live_files(lake)) == 1
    log = Path(lake.uri(STUDY), f"_delta_log/{version + 1:020}.json").read_text()
    assert log.count('"dataChange":false') == 6
    assert '"dataChange":true' not in log
    after = contents(tmp_path)
    assert maintained(lake) == 0
    assert contents(tmp_path) == after


def test_what_is_joined_is_not_counted_twice(lake):
    for number in range(3):
        store_as_before(lake, study(f"1.{number}", **BORN))
    planned = maintain(lake, STUDY, dry_run=True)
    done = maintain(lake, STUDY)
    for each in (planned, done):
        assert (each.joined_files, each.joined_into, each.files_marked_for_spark) == (3, 1, 0)
    assert refused(lake) == 0


@pytest.mark.usefixtures("unjoined")
def test_upkeep_that_is_killed_goes_on_with_the_rest(lake, monkeypatch):
    monkeypatch.setattr(upkeep, "BYTES_PER_COMMIT", 1)
    for number in range(3):
        store_as_before(lake, study(f"1.{number}", **BORN))
    rows, version = read(lake), lake.version(STUDY)
    commit, commits = lake._commit, []

    def die(*planned):
        if commits:
            raise KeyboardInterrupt
        commits.append(commit(*planned))

    with monkeypatch.context() as patch:
        patch.setattr(lake, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            maintain(lake, STUDY)
    assert (lake.version(STUDY), refused(lake)) == (version + 1, 2)
    assert read(lake) == rows
    assert maintained(lake) == 2
    assert read(lake) == rows


@pytest.mark.usefixtures("unjoined")
def test_commit_that_is_lost_to_a_writer_is_tried_again_without_its_files(lake, tmp_path, monkeypatch):
    for number in range(2):
        store_as_before(lake, study(f"1.{number}", **BORN))
    files = data_files(lake)
    other, commit, lost = build_lake(tmp_path / "lake"), lake._commit, []

    def lose(*planned):
        if not lost:
            lost.append(store(other, study("1.0", patientSex="O", **BORN)))
            raise CommitFailedError
        commit(*planned)

    monkeypatch.setattr(lake, "_commit", lose)
    monkeypatch.setattr(upkeep, "BYTES_PER_COMMIT", 1)
    done = maintain(lake, STUDY)
    assert (done.files_marked_for_spark, done.is_complete) == (1, False)
    assert [row.get("patientSex") for row in read(lake)] == ["O", None]
    assert refused(lake) == 0
    assert len(data_files(lake) - files) == 2, "a file of the lost commit was left"


def test_service_that_shares_tables_writes_its_own_files_anew(tmp_path):
    north, south = (build_lake(tmp_path / "lake", service=name) for name in ("north", "south"))
    for lake in (north, south):
        store_as_before(lake, study("1.1", **BORN))
    assert maintained(north) == 1
    assert (refused(north), refused(south)) == (0, 1)
    assert read(north) == read(south)
