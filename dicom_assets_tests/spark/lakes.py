"""Lakes that are merged by Spark, by itself or taking turns with the default engine."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from dicom_assets.core.columns.schema import CHANGE_FEED, TABLES, Table
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.spark.engine import SparkEngine
from dicom_assets.lake.spark.session import Spark
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import Derivation, Written
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.test_order import play
from dicom_assets_tests.law.test_shared import play_both
from dicom_assets_tests.law.world import World, read_tables

PATHS = {table.name: table.name for table in TABLES}


def build_spark_lake(folder: Path, spark: Spark, service: str | None = None) -> Lake:
    return Lake(Storage(str(folder)), PATHS, scope=Scope(service), engine=SparkEngine(spark))


class TakingTurns(Lake):
    """Every other write is the default engine's."""

    def __init__(self, folder: Path, spark: Spark, service: str | None = None) -> None:
        super().__init__(Storage(str(folder)), PATHS, scope=Scope(service), engine=SparkEngine(spark))
        self._other = build_lake(folder, service=service)
        self._turn = False

    def write(self, table: Table, derivation: Derivation) -> Written:
        self._turn = not self._turn
        return super().write(table, derivation) if self._turn else self._other.write(table, derivation)


def check_history(lake: Lake, history, order) -> None:
    """The law, after any history of changes and runs."""
    with Service(seed=1) as service, closing(lake.engine.spark):
        world = World(service, lake)
        play(world, history, order)
        assert read_tables(lake) == world.expected()
        stored = lake.open(CHANGE_FEED).read_table(["sequence"])["sequence"].to_pylist()
        assert sorted(stored) == sorted({entry["sequence"] for entry in world.read})


def check_histories_of_two(lakes: Sequence[Lake], both, orders, turns) -> None:
    """The law for two services that share their tables, whichever takes the next step of its history."""
    with ExitStack() as stack:
        services = [stack.enter_context(Service(seed=1)) for _ in lakes]
        worlds = [World(*each) for each in zip(services, lakes, strict=True)]
        play_both(worlds, both, orders, turns)
        assert leftovers(lakes[0]) == []


def leftovers(lake: Lake) -> list[Path]:
    return list(Path(lake.storage.uri("_staging")).rglob("*.parquet"))
