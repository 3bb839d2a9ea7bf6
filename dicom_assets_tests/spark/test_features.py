"""Tables of ours in which Spark switched on more than this project implements, and off again."""

import re
import shutil
from pathlib import Path

import pytest

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.lake.table import delta
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import Wanted, build_lake, read, store, study
from dicom_assets_tests.spark.lakes import build_spark_lake

SET = "ALTER TABLE {table} SET TBLPROPERTIES"
MAPPED = "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5'"
SWITCHED_ON = {
    "delta.enableChangeDataFeed": [f"{SET} ('delta.enableChangeDataFeed' = 'true')"],
    "delta.appendOnly": [f"{SET} ('delta.appendOnly' = 'true')"],
    "delta.enableInCommitTimestamps": [f"{SET} ('delta.enableInCommitTimestamps' = 'true')"],
    "manifest": [f"{SET} ('delta.compatibility.symlinkFormatManifest.enabled' = 'true')"],
    "CHECK constraint some": ["ALTER TABLE {table} ADD CONSTRAINT some CHECK (instanceCount > 0)"],
    "default": [
        f"{SET} ('delta.feature.allowColumnDefaults' = 'supported')",
        "ALTER TABLE {table} ALTER COLUMN patientSex SET DEFAULT 'F'",
    ],
    "rowTracking": [f"{SET} ('delta.enableRowTracking' = 'true')"],
    "domainMetadata": [f"{SET} ('delta.feature.domainMetadata' = 'supported')"],
    "materializePartitionColumns": [f"{SET} ('delta.enableMaterializePartitionColumnsFeature' = 'true')"],
    "columnMapping": [f"{SET} ({MAPPED})"],
    "deletionVectors": [
        f"{SET} ('delta.enableDeletionVectors' = 'true')",
        "DELETE FROM {table} WHERE studyInstanceUid = '3'",
    ],
    "v2Checkpoint": [f"{SET} ('delta.checkpointPolicy' = 'v2')"],
    "typeWidening": [
        "ALTER TABLE {table} ADD COLUMN age INT",
        f"{SET} ('delta.enableTypeWidening' = 'true')",
        "ALTER TABLE {table} ALTER COLUMN age TYPE BIGINT",
    ],
    "vacuumProtocolCheck": [f"{SET} ('delta.feature.vacuumProtocolCheck' = 'supported')"],
}
"""What the message names, and what Spark ran."""
HIDDEN = {"columnMapping", "deletionVectors"}
"""Those with which the rows cannot be read either."""
FOR_GOOD = {
    "clustering": ["ALTER TABLE {table} CLUSTER BY (studyInstanceUid)"],
    "variantType": ["ALTER TABLE {table} ADD COLUMN more VARIANT"],
    "icebergCompatV2": [
        f"{SET} ('delta.enableIcebergCompatV2' = 'true', 'delta.columnMapping.mode' = 'name')",
    ],
    "coordinatedCommits-preview": [f"{SET} ('delta.feature.coordinatedCommits-preview' = 'supported')"],
}
"""Those that no command takes off."""


@pytest.fixture
def lake(tmp_path, monkeypatch) -> Lake:
    monkeypatch.setattr(delta, "COMMITS_PER_CHECKPOINT", 2)
    lake = build_lake(tmp_path)
    for sex in "FM":
        store(lake, study("1", patientSex=sex), study("2"), study("3"))
    return lake


@pytest.fixture
def run(shared_spark, lake):
    def execute(statements) -> None:
        for statement in statements:
            shared_spark.sql(statement.format(table=f"delta.`{lake.uri(STUDY)}`")).collect()

    return execute


def files(lake: Lake) -> set[str]:
    return {str(path) for path in Path(lake.storage.url).rglob("*")}


def refusal(lake: Lake) -> str:
    """What a write is refused with, before anything is derived, and without a trace."""
    wanted, before = Wanted([study("2", patientSex="O")], [study("1")]), files(lake)
    with pytest.raises(ForeignTableError) as caught:
        lake.write(STUDY, wanted)
    assert wanted.builds == 0
    assert files(lake) == before
    assert lake.uri(STUDY) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SWITCHED_ON)
def test_feature_that_is_switched_on_is_refused_until_the_command_of_the_message_has_run(lake, run, name):
    run(SWITCHED_ON[name])
    message = refusal(lake)
    assert name in message
    commands = re.findall(r"ALTER TABLE delta\.`[^`]+` .+?(?=; ALTER|\. Then| \(before)", message)
    assert commands
    with pytest.raises(ForeignTableError):
        maintain(lake, STUDY)
    if name in HIDDEN:
        with pytest.raises(ForeignTableError):
            lake.open(STUDY)
    else:
        assert len(read(lake)) == 3
    run(commands)
    written = lake.write(STUDY, Wanted([study("2", patientSex="O"), study("4")], [study("1")]))
    assert (written.inserted, written.updated, written.deleted, written.conflicts) == (1, 1, 1, 0)
    for number in range(3):  # past a checkpoint, and a look at old entries of the log
        store(lake, study("5", patientSex=str(number)))
    assert maintain(lake, STUDY).is_complete
    assert {"2", "4", "5"} <= {row["studyInstanceUid"] for row in read(build_lake(Path(lake.storage.url)))}


@pytest.mark.parametrize("name", FOR_GOOD)
def test_feature_that_stays_is_refused_and_its_table_made_anew_elsewhere(lake, run, name):
    run(FOR_GOOD[name])
    assert name in refusal(lake)


def test_feature_that_is_switched_on_while_rows_are_derived_is_refused_at_the_second_attempt(lake, run):
    class Altered(Wanted):
        def build(self):
            run(SWITCHED_ON["delta.enableChangeDataFeed"])
            return super().build()

    wanted, version = Altered([study("2", patientSex="O")]), lake.version(STUDY)
    with pytest.raises(ForeignTableError, match="change data feed"):
        lake.write(STUDY, wanted)
    assert wanted.builds == 1
    assert lake.version(STUDY) == version + 1


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("age INT GENERATED ALWAYS AS (CAST(instanceCount AS INT))", "generated"),
        ("age BIGINT GENERATED ALWAYS AS IDENTITY", "identity"),
    ],
)
def test_table_that_spark_created_with_columns_that_fill_themselves_is_refused(lake, run, column, told):
    types = {"timestamp[us, tz=UTC]": "TIMESTAMP", "date32[day]": "DATE", "int64": "BIGINT", "string": "STRING"}
    columns = [f"{each.name} {types[str(each.type)]}{'' if each.nullable else ' NOT NULL'}" for each in STUDY.schema]
    shutil.rmtree(lake.uri(STUDY))
    run([f"CREATE TABLE {{table}} ({', '.join([*columns, column])}) USING delta"])
    message = refusal(lake)
    assert told in message
    assert "RESTORE TABLE" in message
    assert "DICOM_STUDY_TABLE_PATH" in message


def test_column_of_a_type_that_is_not_known_here_goes_by_restoring_the_version_before(lake, run):
    version = lake.version(STUDY)
    run([f"{SET} ('delta.feature.timestampNtz' = 'supported')", "ALTER TABLE {table} ADD COLUMN seen TIMESTAMP_NTZ"])
    message = refusal(lake)
    assert "seen" in message
    assert "RESTORE TABLE" in message
    run([f"RESTORE TABLE {{table}} TO VERSION AS OF {version}"])
    assert lake.write(STUDY, Wanted([study("2", patientSex="O")])).updated == 1


def test_properties_that_ask_nothing_of_a_writer_are_no_hindrance(lake, run):
    run(
        [
            f"{SET} ('delta.checkpointInterval' = '20', 'delta.randomizeFilePrefixes' = 'true', 'team' = 'radiology')",
            f"{SET} ('delta.enableChangeDataFeed' = 'false', 'delta.autoOptimize.optimizeWrite' = 'true')",
            f"{SET} ('delta.minWriterVersion' = '6')",
        ]
    )
    assert store(lake, study("2", patientSex="O")).updated == 1
    lake.open_or_create(STUDY)
    assert lake.open(STUDY).connect().protocol().min_writer_version == 6


def test_spark_engine_is_refused_likewise(lake, run, spark_url, tmp_path):
    from dicom_assets.lake.spark.session import Spark

    run(SWITCHED_ON["delta.enableChangeDataFeed"])
    assert "delta.enableChangeDataFeed" in refusal(build_spark_lake(tmp_path, Spark(spark_url)))
