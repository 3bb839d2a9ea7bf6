"""Check of the merge engine, by a trial in the scratch folder beside the tables."""

from dicom_assets.config.connections import build_spark
from dicom_assets.core.finding import Fact, Finding
from dicom_assets.doctor.findings import green, red
from dicom_assets.doctor.lake import TRIAL, build_trial
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.lake.table.delta import Lake


def check_merge(surroundings: Surroundings) -> Finding:
    """Check that the engine merges a row into a trial table, and that the row can be read."""
    spark = build_spark(surroundings.settings)
    if spark is None:
        return green("Rows are merged by delta-rs, in the run itself")
    from dicom_assets.lake.spark.engine import SparkEngine  # imported late: Dagster loads all checks

    lake = Lake(surroundings.scratch, {TRIAL.name: "engine"}, engine=SparkEngine(spark))
    try:
        version = spark.version()
        written = lake.write(TRIAL, build_trial("2.25.1"))
    finally:
        spark.close()
    facts: dict[str, Fact] = {"spark": version, "rows": written.row_count}
    if written.row_count != 1:
        return red(
            f"Spark {version} at {spark.place} merged a row that is not there",
            why="It probably writes to another folder of the same name",
            remedy="Put the lake where Spark and this machine reach it under one name",
            facts=facts,
        )
    return green(f"Spark {version} at {spark.place} merged a row into a trial table", facts=facts)
