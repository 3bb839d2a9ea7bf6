"""Spark that is not there, or not fit: each says what happened, why and what to do, and nothing is written."""

import builtins
import socket
import sys
from collections.abc import Iterator

import pytest
from pyspark.errors import AnalysisException, PySparkException

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import EngineError, EngineUnavailableError
from dicom_assets.lake.spark.session import LostRaceError, NoAnswerError, NotSeenError, SessionEndedError, Spark
from dicom_assets_tests.lakes.building import build_lake, store, study
from dicom_assets_tests.spark.lakes import build_spark_lake, leftovers


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_server_that_is_not_there_is_told_at_once_and_without_the_token(unused_port, tmp_path):
    lake = build_spark_lake(tmp_path, Spark(f"sc://127.0.0.1:{unused_port}/;token=hidden"))
    with pytest.raises(EngineUnavailableError) as told:
        store(lake, study("1.1"))
    message = str(told.value)
    assert message.startswith(f"Spark was not reached at sc://127.0.0.1:{unused_port}: Connection refused.")
    assert "DICOM_SPARK_REMOTE" in message
    assert "hidden" not in message
    assert lake.open(STUDY).row_count == 0
    assert leftovers(lake) == []


def test_port_at_which_something_else_listens_is_told_after_a_moment(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.2)
        lake = build_spark_lake(tmp_path, Spark(f"sc://127.0.0.1:{other.getsockname()[1]}"))
        import threading

        def hang_up() -> None:
            while not done.is_set():
                try:
                    other.accept()[0].close()
                except TimeoutError:
                    continue

        done = threading.Event()
        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            with pytest.raises(EngineUnavailableError, match="failed"):
                store(lake, study("1.1"))
        finally:
            done.set()
            thread.join()
    assert leftovers(lake) == []


@pytest.mark.parametrize("remote", [None, "sc://127.0.0.1:1"])
def test_missing_client_names_the_extra(remote, monkeypatch):
    real_import = builtins.__import__

    def import_without_pyspark(name, *args, **kwargs):
        if name.partition(".")[0] == "pyspark":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without_pyspark)
    with pytest.raises(EngineError, match=r"pip install 'dicom-assets\[spark\]'"):
        Spark(remote).version()


def test_without_an_address_and_without_a_session_both_ways_are_told(monkeypatch):
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    with pytest.raises(EngineError, match=r"DICOM_SPARK_REMOTE is not set .*sc://HOST:15002.*notebook"):
        Spark().version()


class Failing:
    """A session whose statements fail."""

    version = "4.2.0"

    def __init__(self, error: Exception) -> None:
        self.conf = self
        self._error = error

    def set(self, name: str, value: str) -> None:
        """Any setting."""

    unset = set

    def sql(self, statement: str) -> None:
        raise self._error


def fail(message: str, kind: type[Exception] = PySparkException, condition: str | None = None) -> Spark:
    error = kind(message)
    if condition:
        error.getCondition = lambda: condition
    spark = Spark("sc://spark.example:15003/;token=hidden")
    spark._session = Failing(error)
    return spark


@pytest.mark.parametrize(
    ("message", "kind", "told"),
    [
        ("[DATA_SOURCE_NOT_FOUND] Failed to find the data source: delta", EngineError, "does not know Delta tables"),
        ("[UNSUPPORTED_FEATURE.TABLE_OPERATION] `t` does not support MERGE", EngineError, "DeltaSparkSessionExtension"),
        ("[TABLE_OR_VIEW_NOT_FOUND] `delta`.`file:///lake/study`", EngineError, "Delta's jars"),
        ("[PATH_NOT_FOUND] Path does not exist: file:/lake", NotSeenError, "PySparkException"),
        ("Operation failed: 'This request is not authorized', 403, HEAD", EngineError, "own identity may not write"),
        ("UNAUTHENTICATED: wrong token", EngineError, "token in DICOM_SPARK_REMOTE"),
        ("[DELTA_CONCURRENT_APPEND.WITHOUT_HINT] lost", LostRaceError, ""),
        ("(io.delta.exceptions.MetadataChangedException) changed", LostRaceError, ""),
        ("Failed to commit transaction: 0", LostRaceError, ""),  # as Sail says it, beside another writer
        ("[INVALID_HANDLE.SESSION_CLOSED] The handle is invalid.", SessionEndedError, ""),
        ("Job aborted: cannot cast 'Doe^Jane'", EngineUnavailableError, "run this again"),
    ],
)
def test_what_spark_says_is_told_in_our_words_without_any_of_its_own(message, kind, told):
    with pytest.raises(kind) as caught:
        fail(message).merge("MERGE", "tag")
    assert told in str(caught.value)
    assert "Doe^Jane" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_statement_that_spark_refuses_is_not_tried_again():
    with pytest.raises(EngineError, match=r"sc://spark.example:15003 failed \(UNRESOLVED_COLUMN\)"):
        fail("no such column", AnalysisException, "UNRESOLVED_COLUMN").merge("MERGE", "tag")


def test_session_of_a_notebook_is_used_and_left_as_it_was(monkeypatch):
    from pyspark.sql import SparkSession

    settings = {}

    class Notebook(Failing):
        def set(self, name, value):
            settings[name] = value

        def unset(self, name):
            del settings[name]

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: Notebook(PySparkException("Job aborted")))
    spark = Spark()
    assert (spark.version(), spark.place) == ("4.2.0", "the session of this process")
    with pytest.raises(EngineUnavailableError):
        spark.merge("MERGE", "tag")
    spark.close()
    assert list(settings) == ["spark.sql.parquet.outputTimestampType"]


@pytest.mark.parametrize(("version", "mode"), [("3.5.3", "CORRECTED"), ("4.2.0", None)])
def test_session_of_spark_3_is_told_how_to_write_ancient_dates(version, mode, monkeypatch):
    settings = {}

    class Notebook(Failing):
        def set(self, name, value):
            settings[name] = value

    session = Notebook(PySparkException("Job aborted"))
    session.version = version
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: session)
    assert Spark().version() == version
    assert settings.get("spark.sql.parquet.datetimeRebaseModeInWrite") == mode


def test_what_java_says_in_a_notebook_is_told_in_our_words_too():
    class Py4JJavaError(Exception):
        """As py4j gives it, which is not installed with Spark's client."""

    lost = "An error occurred.\n: io.delta.exceptions.ConcurrentAppendException: Files were added\n\tat a.B.c(B.scala)"
    with pytest.raises(LostRaceError):
        fail(lost, Py4JJavaError).merge("MERGE", "tag")
    broken = "An error occurred.\n: java.lang.Exception: 'Doe^Jane'\n\tat io.delta.MetadataChangedException.a(B.scala)"
    with pytest.raises(EngineUnavailableError) as told:
        fail(broken, Py4JJavaError).merge("MERGE", "tag")
    assert "Doe^Jane" not in str(told.value)
    assert told.value.__context__ is None


def test_merge_without_an_answer_leaves_its_staged_file_to_the_next_writer(tmp_path):
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException

    lake = build_spark_lake(tmp_path, fail("Connection reset by peer", SparkConnectGrpcException))
    with pytest.raises(NoAnswerError, match=r"failed \(SparkConnectGrpcException\).*run this again"):
        store(lake, study("1.1"))
    assert len(leftovers(lake)) == 1
    assert store(build_lake(tmp_path), study("1.1")).commits == 1
    assert leftovers(lake) == []
    assert "dicomAssets.fence" in lake.open(STUDY).configuration


def test_run_that_is_interrupted_leaves_its_staged_file_to_the_next_writer(tmp_path):
    lake = build_spark_lake(tmp_path, fail("", KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store(lake, study("1.1"))
    assert len(leftovers(lake)) == 1


def test_merge_of_a_session_that_has_ended_is_locked_out_before_it_is_made_again(tmp_path, monkeypatch):
    spark = fail("[INVALID_HANDLE.SESSION_CLOSED] The handle is invalid.")
    lake, fences = build_spark_lake(tmp_path, spark), []

    def merge_anew() -> Failing:
        assert leftovers(lake)[1:] == []  # but for what is to be merged now
        fences.append(lake.open(STUDY).configuration.get("dicomAssets.fence"))
        return Failing(PySparkException("enough"))

    monkeypatch.setattr(spark, "_open", lambda: spark._session or merge_anew())
    with pytest.raises(EngineUnavailableError):
        store(lake, study("1.1"))
    assert len(fences) == 1
    assert fences[0] is not None
    assert leftovers(lake) == []


@pytest.mark.parametrize("disabled", [False, True])
def test_loggers_of_spark_are_as_before_afterwards(disabled, monkeypatch):
    from pyspark.logger import PySparkLogger

    logger = PySparkLogger.getLogger("SQLQueryContextLogger")
    monkeypatch.setattr(logger, "disabled", disabled)
    with pytest.raises(EngineUnavailableError):
        fail("Job aborted").merge("MERGE", "tag")
    assert logger.disabled is disabled


def test_nothing_of_spark_is_imported_before_it_is_needed():
    import subprocess

    code = "import sys, dicom_assets.config.connections; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
