"""Run as a process of its own, with Spark 3.5 as `pyspark`: a session as a notebook has it, in which runs merge.

Arguments are a folder and Spark's configuration as JSON. The answer is whether the tables are right, and who merged.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from dicom_assets.core.columns.schema import INSTANCE
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.spark.session import Spark
from dicom_assets_tests.law.world import World, hours, read_tables
from dicom_assets_tests.readers.ancient import store_ancient
from dicom_assets_tests.spark.lakes import build_spark_lake


def main(folder: str, configuration: str) -> None:
    """Merge two hours of ancient dates, and the first once more."""
    builder = SparkSession.builder
    for name, value in json.loads(configuration).items():
        builder = builder.config(name, value)
    builder.getOrCreate()
    with closing(Spark()) as spark, Service(seed=1, file_store=Path(folder) / "files") as service:
        world = World(service, build_spark_lake(Path(folder) / "lake", spark))
        for hour in (0, 1):
            store_ancient(service, hour)
            world.run_chain(hours(hour))
        world.run_chain(hours(0))
        engines = {commit["engineInfo"].partition(" ")[0] for commit in world.lake.open(INSTANCE).connect().history()}
        is_right = read_tables(world.lake) == world.expected()
    print(json.dumps({"version": pyspark.__version__, "is_right": is_right, "engines": sorted(engines)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
