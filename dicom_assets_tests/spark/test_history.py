"""What Spark says of commits that are made here, and that it reads the tables behind them."""

import pytest

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.lake.files import data_file
from dicom_assets_tests.lakes.building import Wanted, build_lake, store, study


@pytest.fixture
def history(spark, tmp_path) -> dict[int, dict]:
    """By version, as `DESCRIBE HISTORY` tells, of a table that has a checkpoint and was joined."""
    lake = build_lake(tmp_path)
    store(lake, study("1"), study("2"), study("3"))
    lake.write(STUDY, Wanted([study("1", patientSex="O"), study("4")], [study("3")]))
    for number in range(data_file.JOINED_FILES + 2):
        store(lake, study(f"9.{number}"))
    table = f"delta.`file://{lake.uri(STUDY)}`"
    assert spark.sql(f"SELECT count(*) FROM {table}").collect()[0][0] == data_file.JOINED_FILES + 5
    assert spark.sql(f"SELECT count(*) FROM {table} VERSION AS OF 1").collect()[0][0] == 3
    return {row["version"]: row.asDict() for row in spark.sql(f"DESCRIBE HISTORY {table}").collect()}


def test_history_in_spark_shows_operations_and_rows(history):
    assert [history[version]["operation"] for version in range(3)] == ["CREATE TABLE", "MERGE", "MERGE"]
    metrics = history[2]["operationMetrics"]
    names = ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted", "numOutputRows")
    assert [metrics[name] for name in names] == ["1", "1", "1", "3"]
    assert "studyInstanceUid" in history[2]["operationParameters"]["predicate"]
    assert (history[2]["readVersion"], history[2]["isBlindAppend"]) == (1, False)
    assert history[2]["engineInfo"].startswith("dicom-assets/")
    (optimized,) = (each for each in history.values() if each["operation"] == "OPTIMIZE")
    assert int(optimized["operationMetrics"]["numRemovedFiles"]) >= data_file.JOINED_FILES
    assert optimized["operationMetrics"]["numAddedFiles"] == "1"
