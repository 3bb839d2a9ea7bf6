"""Real Apache Spark starts, knows Delta, and is one for all test processes."""

import subprocess
import sys
import time

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from dicom_assets_tests.spark import server
from dicom_assets_tests.spark.fetch import SPARK_VERSION

STAND_IN = ["sh", "-c", "echo Spark Connect server started at: $$; exec sleep 600"]
"""A process that tells its own id as the address."""
USER = """
import sys
from pathlib import Path
from dicom_assets_tests.spark.server import share_process
with share_process(Path(sys.argv[1]), sys.argv[2:]) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


def is_running(process_id: str) -> bool:
    """Not if it has ended and only waits to be asked how."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", process_id], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_spark_is_the_one_its_client_is_made_for_and_reads_and_writes_delta(spark, tmp_path):
    import pyspark

    assert spark.version == pyspark.__version__ == SPARK_VERSION
    write_deltalake(tmp_path / "ours", pa.table({"k": ["a", "b"], "n": [1, 2]}))
    spark.sql(f"CREATE TABLE ours USING delta LOCATION '{tmp_path / 'ours'}'")
    spark.sql("UPDATE ours SET n = 3 WHERE k = 'b'")
    assert [tuple(row) for row in spark.sql("SELECT k, n FROM ours ORDER BY k").collect()] == [("a", 1), ("b", 3)]
    (last,) = spark.sql("DESCRIBE HISTORY ours LIMIT 1").collect()
    assert last.operation == "UPDATE"
    assert last.engineInfo.startswith("Apache-Spark/")


def test_processes_share_one_server_which_ends_with_its_last_user_however_that_ends(tmp_path):
    command = [sys.executable, "-c", USER, str(tmp_path / "shared"), *STAND_IN]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        (shared,) = {first.stdout.readline().strip(), second.stdout.readline().strip()}
        first.stdin.close()
        assert first.wait() == 0
        assert is_running(shared)
        second.kill()
    until = time.monotonic() + 60
    while is_running(shared):
        assert time.monotonic() < until, "the server outlived its users"
        time.sleep(0.05)


def test_a_server_that_ends_before_it_listens_fails_the_test_with_what_it_said(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="no room for a heap"):
        with server.share_process(tmp_path / "shared", ["sh", "-c", "echo no room for a heap"]):
            pass


def test_without_java_spark_is_skipped_and_where_it_is_required_it_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.delenv(server.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no java"):
        server.find_java()
    monkeypatch.setenv(server.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="lets no test be skipped"):
        server.find_java()
