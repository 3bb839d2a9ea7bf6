"""The law on Sail, which speaks Spark SQL without Java: on every machine, in this process."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dicom_assets.core.columns.schema import STUDY, Table
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.spark.engine import SparkEngine
from dicom_assets.lake.spark.session import Spark
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets_tests.lakes.building import Wanted, build_lake, read, store, study
from dicom_assets_tests.law import test_writers
from dicom_assets_tests.law.test_order import HOURS, histories, law
from dicom_assets_tests.law.test_shared import NAMES, turns, two_histories, two_orders
from dicom_assets_tests.spark.lakes import (
    PATHS,
    TakingTurns,
    build_spark_lake,
    check_histories_of_two,
    check_history,
    leftovers,
)


@pytest.fixture(scope="module")
def sail_url() -> Iterator[str]:
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start()
    yield f"sc://127.0.0.1:{server.listening_address[1]}"
    server.stop()


@pytest.fixture
def sail(sail_url) -> Iterator[Spark]:
    spark = Spark(sail_url)
    yield spark
    spark.close()


def test_rows_are_inserted_updated_and_deleted_in_one_commit_and_counted(sail, tmp_path):
    lake = build_spark_lake(tmp_path, sail)
    first = store(lake, study("1.1"), study("1.2"), study("1.3"))
    assert (first.inserted, first.commits, first.row_count) == (3, 1, 3)
    wanted = Wanted([study("1.1"), study("1.2", patientName="Doe^Jane"), study("1.4")], [study("1.3"), study("1.5")])
    second = lake.write(STUDY, wanted)
    assert (second.inserted, second.updated, second.deleted, second.commits) == (1, 1, 1, 1)
    assert second.version == first.version + 1
    assert second.bytes_written > 0
    assert [row["studyInstanceUid"] for row in read(lake)] == ["1.1", "1.2", "1.4"]
    assert leftovers(lake) == []


def test_where_nothing_differs_there_is_no_commit(sail, tmp_path):
    lake = build_spark_lake(tmp_path, sail)
    version = store(lake, study("1.1")).version
    again = lake.write(STUDY, Wanted([study("1.1")], [study("1.9")]))
    assert (again.version, again.commits, again.updated) == (version, 0, 0)


@pytest.mark.parametrize("engine", ["spark", "delta-rs"])
def test_staged_rows_of_a_killed_writer_are_taken_away_and_its_merge_is_locked_out(engine, sail, tmp_path):
    lake = build_spark_lake(tmp_path, sail)
    version = store(lake, study("1.1")).version
    left = tmp_path / "_staging/study/left.parquet"
    left.write_bytes(b"")
    written = store(lake if engine == "spark" else build_lake(tmp_path), study("1.1"))
    assert leftovers(lake) == []
    assert written.version == version + 1  # of the table's metadata
    assert "dicomAssets.fence" in lake.open(STUDY).connect().metadata().configuration
    assert read(lake) == [study("1.1")]


def test_writer_that_is_killed_while_it_locks_out_another_leaves_that_to_the_next(sail, tmp_path, monkeypatch):
    lake = build_spark_lake(tmp_path, sail)
    version = store(lake, study("1.1")).version
    (tmp_path / "_staging/study/left.parquet").write_bytes(b"")

    def kill(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lake, "set_properties", kill)
        with pytest.raises(KeyboardInterrupt):
            store(lake, study("1.1"))
    assert lake.version(STUDY) == version
    assert store(lake, study("1.1")).version == version + 1
    assert leftovers(lake) == []


def test_rows_whose_staged_file_is_taken_away_are_merged_in_another_attempt(sail, tmp_path, monkeypatch):
    lake = build_spark_lake(tmp_path, sail)
    merge, seen = sail.merge, []

    def lose_the_first(statement, tag):
        seen.append(tag)
        if len(seen) == 1:
            (Path(lake.storage.uri("_staging/study")) / tag).unlink()
        merge(statement, tag)

    monkeypatch.setattr(sail, "merge", lose_the_first)
    assert store(lake, study("1.1")).conflicts == 1
    assert read(lake) == [study("1.1")]


def test_tables_stay_of_the_protocol_that_every_reader_knows(sail, tmp_path):
    lake = build_spark_lake(tmp_path, sail)
    store(lake, study("1.1"))
    protocol = lake.open(STUDY).connect().protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert build_lake(tmp_path).write(STUDY, Wanted([study("1.1")], [])).commits == 0


class GatedSpark:
    """A session that waits for its turn before every merge."""

    def __init__(self, spark: Spark, gate: Callable[[], None]) -> None:
        self._spark, self._gate = spark, gate

    def merge(self, statement: str, tag: str) -> None:
        self._gate()
        self._spark.merge(statement, tag)


class GatedSparkLake(Lake):
    """A writer of its own, that waits for its turn before every look at a table and every merge."""

    def __init__(
        self, spark: Spark, storage: Storage, turns: test_writers.Turns, who: bool, service: str | None
    ) -> None:
        engine = SparkEngine(GatedSpark(spark, partial(turns.gate, who)))
        super().__init__(storage, PATHS, scope=Scope(service), engine=engine)
        self._turns, self._who = turns, who

    def open(self, table: Table, version: int | None = None) -> Snapshot | None:
        self._turns.gate(self._who)
        return super().open(table, version)

    def has_version(self, table: Table, version: int | None) -> bool:
        self._turns.gate(self._who)
        return super().has_version(table, version)


@pytest.mark.parametrize("steps", [2, 5, 8])
@pytest.mark.parametrize("first", [False, True], ids=["create first", "delete first"])
def test_create_read_before_its_delete_leaves_no_row_whichever_run_merges_first(first, steps, sail, monkeypatch):
    monkeypatch.setattr(test_writers, "GatedLake", partial(GatedSparkLake, sail))
    schedule = [first] * steps + [not first] * 100
    test_writers.check_create_read_before_its_delete(schedule, test_writers.DELETES)


@given(history=histories, order=st.permutations(range(HOURS)))
@law(3)
def test_tables_obey_the_law_with_engines_that_take_turns(sail_url, tmp_path_factory, history, order):
    check_history(TakingTurns(tmp_path_factory.mktemp("law"), Spark(sail_url)), history, order)


@pytest.mark.deep
@pytest.mark.parametrize("shard", range(4))
@given(history=histories, order=st.permutations(range(HOURS)))
@law(15)
def test_tables_obey_the_law_after_dozens_of_histories(shard, sail_url, tmp_path_factory, history, order):
    check_history(build_spark_lake(tmp_path_factory.mktemp("law"), Spark(sail_url)), history, order)


def check_two(folder: Path, url: str, both, orders, turns) -> None:
    with closing(Spark(url)) as spark:
        lakes = [TakingTurns(folder, spark, NAMES[0]), build_spark_lake(folder, spark, NAMES[1])]
        check_histories_of_two(lakes, both, orders, turns)


@given(both=two_histories, orders=two_orders, turns=turns)
@law(2)
def test_services_that_share_tables_obey_the_law(sail_url, tmp_path_factory, both, orders, turns):
    check_two(tmp_path_factory.mktemp("law"), sail_url, both, orders, turns)


@pytest.mark.deep
@given(both=two_histories, orders=two_orders, turns=turns)
@law(20)
def test_services_that_share_tables_obey_the_law_after_dozens_of_histories(
    sail_url, tmp_path_factory, both, orders, turns
):
    check_two(tmp_path_factory.mktemp("law"), sail_url, both, orders, turns)
