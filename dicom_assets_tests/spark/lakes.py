"""Lakes that are merged by Spark, by itself or taking turns with the default engine."""

from contextlib import closing
from pathlib import Path

from dicom_assets.adapters.delta import Derivation, Written
from dicom_assets.adapters.spark import SparkLake
from dicom_assets.adapters.spark_session import Spark
from dicom_assets.adapters.storage import Storage
from dicom_assets.core.schema import CHANGE_FEED, TABLES, Table
from dicom_assets.emulator.store import Service
from dicom_assets_tests.adapters.lakes import build_lake
from dicom_assets_tests.law.test_order import play
from dicom_assets_tests.law.world import World, read_tables

PATHS = {table.name: table.name for table in TABLES}


def build_spark_lake(folder: Path, spark: Spark, service: str | None = None) -> SparkLake:
    return SparkLake(Storage(str(folder)), PATHS, spark=spark, service=service)


class TakingTurns(SparkLake):
    """Every other write is the default engine's."""

    def __init__(self, folder: Path, spark: Spark, service: str | None = None) -> None:
        super().__init__(Storage(str(folder)), PATHS, spark=spark, service=service)
        self._other = build_lake(folder, service=service)
        self._turn = False

    def write(self, table: Table, derivation: Derivation) -> Written:
        self._turn = not self._turn
        return super().write(table, derivation) if self._turn else self._other.write(table, derivation)


def check_history(lake: SparkLake, history, order) -> None:
    """The law, after any history of changes and runs."""
    with Service(seed=1) as service, closing(lake._spark):
        world = World(service, lake)
        play(world, history, order)
        assert read_tables(lake) == world.expected()
        stored = lake.open(CHANGE_FEED).read_table(["sequence"])["sequence"].to_pylist()
        assert sorted(stored) == sorted({entry["sequence"] for entry in world.read})


def leftovers(lake: SparkLake) -> list[Path]:
    return list(Path(lake.storage.uri("_staging")).rglob("*.parquet"))
