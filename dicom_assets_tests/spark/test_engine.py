"""Real Apache Spark with Delta merges: beside the default engine, beside itself, and past a writer that was killed."""

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from logging.config import dictConfig
from threading import Barrier

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dicom_assets.core.columns.schema import INSTANCE, STUDY, TABLES
from dicom_assets.core.errors import EngineError, LakeError
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.spark import session as spark_session
from dicom_assets.lake.spark.merge_statement import build_merge
from dicom_assets.lake.spark.session import LostRaceError, NotSeenError, Spark
from dicom_assets.lake.spark.staging import Staging
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import Wanted, build_lake, read, store, study
from dicom_assets_tests.law.killed_run import FIRST_HOUR, SECOND_HOUR, play
from dicom_assets_tests.law.test_order import HOURS, histories, law
from dicom_assets_tests.law.test_shared import NAMES, turns, two_histories, two_orders
from dicom_assets_tests.law.world import World, hours, read_tables
from dicom_assets_tests.spark.fetch import HOME
from dicom_assets_tests.spark.lakes import (
    TakingTurns,
    build_spark_lake,
    check_histories_of_two,
    check_history,
    leftovers,
)
from dicom_assets_tests.spark.server import find_java, share_process, spark_command

BEGINS_SECONDS = 3
"""After so long a MERGE that sleeps has opened the table."""
SLEEP = "java_method('java.lang.Thread', 'sleep', 10000L)"


@pytest.fixture
def real(spark_url) -> Iterator[Spark]:
    session = Spark(spark_url)
    yield session
    session.close()


def test_engines_that_take_turns_leave_the_tables_that_the_law_says(real, tmp_path, monkeypatch):
    monkeypatch.setattr(data_file, "JOINED_FILES", 2)
    lake = TakingTurns(tmp_path, real)
    with Service(seed=1) as service:
        world = World(service, lake)
        play(service, FIRST_HOUR)
        world.run_chain(hours(0))
        play(service, SECOND_HOUR)
        world.run_chain(hours(1))
        lake._turn = not lake._turn
        world.run("change_feed", hours(0))
        world.run("instance", hours(0))
        assert read_tables(lake) == world.expected()
    assert leftovers(lake) == []
    for table in TABLES:
        protocol = lake.open(table).connect().protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
        engines = {commit["engineInfo"].partition("/")[0] for commit in lake.open(table).connect().history()}
        assert "Apache-Spark" in engines or table.name == "file_index"


def test_services_that_share_tables_are_merged_beside_each_other(real, spark, tmp_path):
    with Service(seed=1) as north, Service(seed=2) as south:
        services = {"north": north, "south": south}
        worlds = [World(service, TakingTurns(tmp_path, real, name)) for name, service in services.items()]
        for service in services.values():
            play(service, FIRST_HOUR)
        play(south, SECOND_HOUR)
        for world in worlds:
            world.run_chain(hours(0))
        worlds[1].run_chain(hours(1))
        worlds[0].lake._turn = not worlds[0].lake._turn
        worlds[0].run_chain(hours(0))
        for world in worlds:
            assert read_tables(world.lake) == world.expected()
            assert leftovers(world.lake) == []
        rows = spark.sql(f"SELECT serviceName, count(*) FROM delta.`file://{worlds[0].lake.uri(INSTANCE)}` GROUP BY 1")
        counts = [(name, len(world.expected()["instance"])) for name, world in zip(services, worlds, strict=True)]
        assert sorted(map(tuple, rows.collect())) == [each for each in counts if each[1]]


def test_merges_of_two_services_at_the_same_moment_lose_no_attempt_to_each_other(spark_url, tmp_path):
    with closing(Spark(spark_url)) as one, closing(Spark(spark_url)) as other:
        lakes = [build_spark_lake(tmp_path, *each) for each in ((one, "north"), (other, "south"))]
        for lake in lakes:
            store(lake, study("1.0"), study("1.1"))
        together = Barrier(2)

        def write(lake):
            together.wait(300)
            return lake.write(STUDY, Wanted([study("1.1", patientSex=lake.scope.service[0])], [study("1.0")]))

        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(write, lakes))
    assert [(each.updated, each.deleted, each.conflicts) for each in written] == [(1, 1, 0)] * 2
    assert [row["patientSex"] for lake in lakes for row in read(lake)] == ["n", "s"]


def test_what_spark_did_is_counted_and_nothing_is_committed_where_nothing_differs(real, tmp_path):
    lake = build_spark_lake(tmp_path, real)
    first = store(lake, study("1.1"), study("1.2"))
    assert (first.inserted, first.commits) == (2, 1)
    again = lake.write(STUDY, Wanted([study("1.1")], [study("1.9")]))
    assert (again.version, again.commits) == (first.version, 0)
    last = lake.write(STUDY, Wanted([study("1.1", patientName="Doe^Jane")], [study("1.2")]))
    assert (last.inserted, last.updated, last.deleted, last.version) == (0, 1, 1, first.version + 1)
    assert last.bytes_written > 0


def test_merges_at_the_same_moment_leave_each_row_once(spark_url, tmp_path):
    with closing(Spark(spark_url)) as one, closing(Spark(spark_url)) as other:
        lakes = [build_spark_lake(tmp_path, session) for session in (one, other)]
        store(lakes[0], study("1.0"))
        together = Barrier(2)

        def write(lake):
            together.wait(300)
            return store(lake, study("1.1"), study("1.2"))

        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(write, lakes))
    assert sum(each.inserted for each in written) == 2
    assert [row["studyInstanceUid"] for row in read(lakes[0])] == ["1.0", "1.1", "1.2"]
    assert leftovers(lakes[0]) == []


@pytest.mark.parametrize("engine", ["spark", "delta-rs"])
def test_merge_that_a_killed_writer_left_behind_cannot_be_committed_any_more(engine, spark_url, tmp_path):
    """It has begun when the next writer finds nothing to do, and would put back a row that is deleted by then."""
    with closing(Spark(spark_url)) as dead, closing(Spark(spark_url)) as alive:
        lake = build_spark_lake(tmp_path, alive)
        store(lake, study("1.0"))
        staging = Staging(lake.storage, "study")
        name = staging.put(Wanted([study("1.1")], []).desired, STUDY)
        statement = build_merge(STUDY, STUDY.schema.names, f"file://{lake.uri(STUDY)}", f"file://{staging.uri(name)}")
        slow = statement.replace("WHERE CASE", f"WHERE {SLEEP} = 'null' AND CASE")
        assert slow != statement
        with ThreadPoolExecutor(1) as pool:
            orphan = pool.submit(dead.merge, slow, "orphan")
            time.sleep(BEGINS_SECONDS)
            after = lake if engine == "spark" else build_lake(tmp_path)
            after.write(STUDY, Wanted([study("1.0")], [study("1.1")]))
            with suppress(LostRaceError, NotSeenError):  # on a slow machine it was earlier, and then is found
                orphan.result(300)
    assert [row["studyInstanceUid"] for row in read(lake)] == ["1.0"]


@pytest.mark.deep
@pytest.mark.parametrize("shard", range(2))
@given(history=histories, order=st.permutations(range(HOURS)))
@law(5)
def test_tables_obey_the_law_with_engines_that_take_turns(shard, spark_url, tmp_path_factory, history, order):
    check_history(TakingTurns(tmp_path_factory.mktemp("law"), Spark(spark_url)), history, order)


@pytest.mark.deep
@given(both=two_histories, orders=two_orders, turns=turns)
@law(4)
def test_services_that_share_tables_obey_the_law(spark_url, tmp_path_factory, both, orders, turns):
    folder, spark = tmp_path_factory.mktemp("law"), Spark(spark_url)
    lakes = [TakingTurns(folder, spark, NAMES[0]), build_spark_lake(folder, spark, NAMES[1])]
    with closing(spark):
        check_histories_of_two(lakes, both, orders, turns)


@pytest.fixture(scope="module")
def spread_url(tmp_path_factory) -> Iterator[str]:
    """Spark with executors in processes of their own."""
    find_java()
    folder = tmp_path_factory.mktemp("local-cluster")
    with share_process(folder, spark_command(folder, master="local-cluster[2,1,1024]")) as address:
        yield f"sc://{address}"


@pytest.mark.deep
@given(history=histories, order=st.permutations(range(HOURS)))
@law(3)
def test_tables_obey_the_law_with_executors_in_processes_of_their_own(spread_url, tmp_path_factory, history, order):
    check_history(TakingTurns(tmp_path_factory.mktemp("law"), Spark(spread_url)), history, order)


@pytest.mark.deep
def test_upkeep_by_either_engine_changes_no_row_and_is_no_hindrance_to_the_other(real, spark, tmp_path):
    spark.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", 1)  # VACUUM has a task for each
    lake = TakingTurns(tmp_path, real)
    with Service(seed=1) as service:
        world = World(service, lake)
        play(service, FIRST_HOUR)
        world.run_chain(hours(0))
        for table in TABLES:
            spark.sql(f"OPTIMIZE delta.`file://{lake.uri(table)}`")
            spark.sql(f"VACUUM delta.`file://{lake.uri(table)}`")
        assert read_tables(lake) == world.expected()
        play(service, SECOND_HOUR)
        world.run_chain(hours(1))
        assert all(maintain(lake, table).is_complete for table in TABLES)
        assert read_tables(lake) == world.expected()
        lake._turn = not lake._turn
        world.run_chain(hours(0))
        assert read_tables(lake) == world.expected()


@pytest.mark.deep
@pytest.mark.parametrize("lacks", ["settings", "jars and settings"])
def test_real_spark_without_delta_is_told_what_it_lacks_and_nothing_written(lacks, tmp_path):
    find_java()
    folder, home = tmp_path / "spark", HOME
    if "jars" in lacks:
        home = shutil.copytree(HOME, tmp_path / "home", copy_function=os.link)
        for jar in (home / "jars").glob("delta-*.jar"):
            jar.unlink()
    command = spark_command(folder, home=home, has_delta=False)
    with share_process(folder, command) as address, closing(Spark(f"sc://{address}")) as session:
        lake = build_spark_lake(tmp_path / "lake", session)
        with pytest.raises(EngineError, match=r"does not know Delta tables .*DeltaSparkSessionExtension"):
            store(lake, study("1.1"))
    assert lake.open(STUDY).row_count == 0
    assert leftovers(lake) == []


def test_folder_that_spark_does_not_see_is_explained_and_nothing_written(real, tmp_path, monkeypatch):
    lake = build_spark_lake(tmp_path, real)
    version = store(lake, study("1.0")).version
    monkeypatch.setattr("dicom_assets.lake.spark.engine._location", lambda uri: f"file:///elsewhere{uri}")
    with pytest.raises(EngineError, match=r"does not find .*study.*another machine.*storage account"):
        store(lake, study("1.1"))
    assert lake.version(STUDY) == version
    assert leftovers(lake) == []


def test_what_spark_says_of_a_row_is_in_no_message_and_no_log(real, tmp_path, monkeypatch, capfd, caplog):
    lake = build_spark_lake(tmp_path, real)
    store(lake, study("1.0"))
    dictConfig({"version": 1, "disable_existing_loggers": False})  # as Dagster's commands do: it enables them all
    statement = "SELECT CAST('Doe^Jane' AS INT) AS patient"
    monkeypatch.setattr("dicom_assets.lake.spark.engine.build_merge", lambda *_, **__: statement)
    with pytest.raises(LakeError) as told:
        store(lake, study("1.1"))
    assert "CAST_INVALID_INPUT" in str(told.value)
    assert "Doe^Jane" not in "".join(traceback.format_exception(told.value)).replace(statement, "")
    assert "Doe^Jane" not in caplog.text + "".join(capfd.readouterr())
    assert leftovers(lake) == []


def test_client_of_another_release_is_refused_before_anything_is_written(spark_url, tmp_path, monkeypatch):
    monkeypatch.setattr("pyspark.__version__", "4.0.1")
    lake = build_spark_lake(tmp_path, Spark(spark_url))
    with pytest.raises(EngineError, match=r"is 4\.2\.0, and its client here is 4\.0\.1.*pyspark-client==4\.2\.\*"):
        store(lake, study("1.1"))
    assert lake.open(STUDY).row_count == 0
    assert leftovers(lake) == []
    monkeypatch.setattr(spark_session, "_has_databricks_connect", lambda: True)
    with closing(Spark(spark_url)) as numbered_otherwise:
        assert numbered_otherwise.version() == "4.2.0"
