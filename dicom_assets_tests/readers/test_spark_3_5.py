"""Apache Spark 3.5 with Delta 3.2, as Fabric runs them: every date is read, and what they write is read by our runs."""

import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, Table
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.derive.agreement import audit
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.spark_calendar import FIRST_DATE, FIRST_TIME, find_refused
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import as_before_calendars
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.world import hours
from dicom_assets_tests.readers.ancient import (
    DAYS,
    TIMES,
    AncientWorld,
    open_world,
    store_ancient,
    tables_of,
)
from dicom_assets_tests.readers.snippets import PAGE, snippets
from dicom_assets_tests.spark.classic import (
    ClassicSpark,
    SparkFailedError,
    build_configuration,
    build_environment,
    start_classic_spark,
)
from dicom_assets_tests.spark.fetch import FABRIC

DATES_CORRECTED = {"spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED"}
WRITING = DATES_CORRECTED | {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
"""What docs/readers.md has Spark 3.5 told before it writes dates of the year 1."""
INT96 = DATES_CORRECTED | {"spark.sql.parquet.int96RebaseModeInWrite": "CORRECTED"}
"""What makes it write times as it does by itself."""
UNREADABLE = "READ_ANCIENT_DATETIME"
UNWRITABLE = "WRITE_ANCIENT_DATETIME"


@pytest.fixture
def world(tmp_path):
    """Two hours of ancient dates; a study was corrected in the second, another one deleted."""
    with Service(seed=1, file_store=tmp_path / "files") as service:
        yield build_world(service, tmp_path)


@pytest.fixture
def old_world(tmp_path):
    """The same as an earlier version of this project left it."""
    with Service(seed=1, file_store=tmp_path / "files") as service:
        with as_before_calendars():
            world = build_world(service, tmp_path)
        yield world


def build_world(service: Service, folder: Path) -> AncientWorld:
    world = open_world(service, folder)
    store_ancient(service, 0)
    world.run_chain(hours(0))
    store_ancient(service, 1)
    world.run_chain(hours(1))
    return world


def at(lake: Lake, table: Table) -> str:
    return f"delta.`file://{lake.uri(table)}`"


def in_order(rows: pa.Table, table: Table) -> list[dict]:
    return sorted(rows.to_pylist(), key=lambda row: [row[name] for name in table.key])


def stored(lake: Lake, table: Table) -> list[dict]:
    return in_order(lake.open(table).read_table(), table)


def check_reading(spark: ClassicSpark, world: AncientWorld) -> None:
    """Spark gives what the tables hold."""
    for table in tables_of(world):
        found = spark.sql(f"SELECT * FROM {at(world.lake, table)}")
        assert in_order(found, table) == stored(world.lake, table) != [], table.name


def check_values(world: AncientWorld) -> None:
    """The tables hold each date as it was sent."""
    for table, names in {
        INSTANCE: ("studyDate", "patientBirthDate", "seriesDate", "performedProcedureStepStartDate", "calibrated"),
        SERIES: ("patientBirthDate", "seriesDate", "calibrated"),
        STUDY: ("patientBirthDate", "calibrated"),
        HEALTHCARE_INSTANCE: ("studydate_formatted",),
    }.items():
        for name in names:
            assert {row[name] for row in stored(world.lake, table)} - {None} == DAYS, name
    assert {row["acquired"] for row in stored(world.lake, INSTANCE)} - {None} == TIMES


def check_tables(world: AncientWorld) -> None:
    """The tables hold what the service says, and agree."""
    check_values(world)
    for name, expected in reference.fold(world.read).items():
        table = next(table for table in tables_of(world) if table.name == name)
        assert [{name: row[name] for name in expected[0]} for row in stored(world.lake, table)] == expected, name
    agreements = audit(world.lake, tables_of(world))
    assert all(agreement.is_complete and agreement.expected for agreement in agreements.values()), agreements


def physical_types(lake: Lake, table: Table) -> set[str]:
    footers = [lake.open(table).folder.read_footer(file) for file in lake.open(table).files]
    return {footer.schema.column(place).physical_type for footer in footers for place in range(footer.num_columns)}


def check_protocol(world: AncientWorld) -> None:
    for table in tables_of(world):
        protocol = DeltaTable(world.lake.uri(table)).protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


def test_every_date_is_read_as_it_was_sent(spark_3_5, world):
    assert spark_3_5.version == FABRIC.spark_version
    check_tables(world)
    check_reading(spark_3_5, world)
    instances = stored(world.lake, INSTANCE)
    found = spark_3_5.sql(f"SELECT sopInstanceUid, filePath FROM {at(world.lake, INSTANCE)}").to_pylist()
    assert sorted(map(tuple, map(dict.values, found))) == sorted(
        (row["sopInstanceUid"], row["filePath"]) for row in instances
    )
    in_columns = spark_3_5.sql(
        "SELECT count_if(patientBirthDate = DATE '0001-01-01') AS first, count_if(seriesDate < DATE '1582-10-15') AS "
        f"julian, count_if(acquired < TIMESTAMP '1900-01-01') AS old FROM {at(world.lake, INSTANCE)}"
    )
    (counts,) = in_columns.to_pylist()
    dates = [row["seriesDate"] for row in instances if row["seriesDate"]]
    times = [row["acquired"] for row in instances if row["acquired"]]
    assert counts == {
        "first": sum(row["patientBirthDate"] == date(1, 1, 1) for row in instances),
        "julian": sum(day < FIRST_DATE for day in dates),
        "old": sum(time < FIRST_TIME for time in times),
    }
    assert 0 not in counts.values()


def test_older_versions_and_the_history_are_read(spark_3_5, world):
    study = at(world.lake, STUDY)
    current = stored(world.lake, STUDY)
    store_ancient(world.service, 2)
    between = datetime.now(UTC)
    version = world.lake.version(STUDY)
    world.run_chain(hours(2))
    for when in (f"VERSION AS OF {version}", f"TIMESTAMP AS OF '{between:%Y-%m-%d %H:%M:%S.%f}'"):
        assert in_order(spark_3_5.sql(f"SELECT * FROM {study} {when}"), STUDY) == current, when
    history = spark_3_5.sql(f"DESCRIBE HISTORY {study}").to_pylist()
    assert [commit["version"] for commit in history] == [*range(world.lake.version(STUDY), -1, -1)]
    (detail,) = spark_3_5.sql(f"DESCRIBE DETAIL {study}").to_pylist()
    snapshot = world.lake.open(STUDY)
    assert (detail["numFiles"], detail["sizeInBytes"]) == (len(snapshot.files), snapshot.size_bytes)
    assert (detail["minReaderVersion"], detail["minWriterVersion"]) == (1, 2)


def test_what_it_merges_deletes_and_compacts_is_right_again_after_our_hours(spark_3_5, world):
    lake = world.lake
    instance, series, study = (at(lake, table) for table in (INSTANCE, SERIES, STUDY))
    with spark_3_5.configured(WRITING):
        spark_3_5.sql(
            f"MERGE INTO {instance} AS t USING (SELECT * FROM {instance} WHERE seriesDate = DATE '0001-01-01') AS s "
            "ON t.sopInstanceUid = s.sopInstanceUid WHEN MATCHED THEN UPDATE SET t.patientName = 'Another', "
            "t.sequence = t.sequence - 1"
        )
        spark_3_5.sql(f"DELETE FROM {series} WHERE patientBirthDate = DATE '1111-11-11'")
        spark_3_5.sql(f"UPDATE {study} SET instanceCount = 0 WHERE patientBirthDate = DATE '1582-10-10'")
    assert "INT96" not in physical_types(lake, INSTANCE)
    with spark_3_5.configured(INT96):
        for table in tables_of(world):
            spark_3_5.sql(f"OPTIMIZE {at(lake, table)}")
    changed = [row for row in stored(lake, INSTANCE) if row["patientName"] == "Another"]
    assert changed
    assert {row["seriesDate"] for row in changed} == {date(1, 1, 1)}
    assert {row["acquired"] for row in stored(lake, INSTANCE)} - {None} == TIMES
    assert "INT96" in physical_types(lake, INSTANCE)
    check_protocol(world)
    assert all(len(lake.open(table).files) == 1 for table in tables_of(world))
    assert find_refused(lake.open(INSTANCE)) == []
    world.run_chain(hours(0, 2))
    store_ancient(world.service, 2)
    world.run_chain(hours(2))
    check_tables(world)
    assert in_order(spark_3_5.sql(f"SELECT * FROM {instance}"), INSTANCE) == stored(lake, INSTANCE)


def test_without_its_setting_it_refuses_to_write_ancient_dates_and_changes_nothing(spark_3_5, world):
    version, study = world.lake.version(STUDY), at(world.lake, STUDY)
    for statement in (f"UPDATE {study} SET patientSex = 'O'", f"OPTIMIZE {study}"):
        with pytest.raises(SparkFailedError, match=UNWRITABLE):
            spark_3_5.sql(statement)
    assert world.lake.version(STUDY) == version
    check_tables(world)


def test_lake_of_an_earlier_version_is_readable_after_upkeep(spark_3_5, old_world):
    lake = old_world.lake
    for table in tables_of(old_world):
        if table in (CHANGE_FEED, FILE_INDEX):  # they have no date that a hospital made up
            assert find_refused(lake.open(table)) == []
            continue
        with pytest.raises(SparkFailedError, match=UNREADABLE):
            spark_3_5.sql(f"SELECT * FROM {at(lake, table)}")
    before = {table.name: stored(lake, table) for table in tables_of(old_world)}
    for table in tables_of(old_world):
        assert maintain(lake, table).is_complete
    assert {table.name: stored(lake, table) for table in tables_of(old_world)} == before
    check_reading(spark_3_5, old_world)
    store_ancient(old_world.service, 2)
    old_world.run_chain(hours(2))
    check_tables(old_world)


def test_what_delta_rs_compacted_is_readable_after_upkeep(spark_3_5, world):
    DeltaTable(world.lake.uri(STUDY)).optimize.compact()
    study = at(world.lake, STUDY)
    with pytest.raises(SparkFailedError, match=UNREADABLE):
        spark_3_5.sql(f"SELECT * FROM {study}")
    assert maintain(world.lake, STUDY).files_marked_for_spark == 1
    assert in_order(spark_3_5.sql(f"SELECT * FROM {study}"), STUDY) == stored(world.lake, STUDY)


def test_page_says_which_release_and_how_to_write():
    page = PAGE.read_text(encoding="utf-8")
    assert f"{FABRIC.spark_version} with Delta {FABRIC.delta_version}" in page
    (snippet,) = snippets()["Apache Spark 3.5"]
    assert dict(re.findall(r'spark\.conf\.set\("(.+?)", "(.+?)"\)', snippet)) == WRITING


@pytest.mark.deep
def test_runs_in_a_notebook_of_it_merge_by_its_session(tmp_path):
    command = [sys.executable, "-P", "-m", "dicom_assets_tests.spark.notebook", str(tmp_path)]
    done = subprocess.run(
        [*command, json.dumps(build_configuration(tmp_path))],
        env=build_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["version"], answer["is_right"]) == (FABRIC.spark_version, True)
    assert f"Apache-Spark/{FABRIC.spark_version}" in answer["engines"]


def test_process_that_ends_fails_the_test_with_what_it_said(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="no room for a heap"):
        with start_classic_spark(tmp_path / "spark", ["sh", "-c", "echo no room for a heap >&2"]):
            pass
