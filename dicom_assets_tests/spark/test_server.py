"""Real Apache Spark starts, knows Delta, and is one for all test processes."""

import hashlib
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from dicom_assets_tests.spark import fetch, server
from dicom_assets_tests.spark.fetch import RELEASES, SPARK_VERSION

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


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.spark_version)
@pytest.mark.parametrize("missing", ["java", "release"])
def test_without_java_or_its_release_spark_is_skipped_and_where_it_is_required_it_fails(
    release, missing, monkeypatch, tmp_path
):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if missing == "java":
        expected = "there is no java"
    else:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/java").touch(mode=0o755)
        release, expected = replace(release, delta_version="0"), f"`make spark` .*{release.folder}"
    monkeypatch.delenv(server.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=expected):
        server.find_java(release)
    monkeypatch.setenv(server.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="lets no test be skipped"):
        server.find_java(release)


def test_fetch_that_was_interrupted_goes_on_and_is_whole_only_at_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "CACHES", tmp_path)
    installed, fetched = [], []

    def install(release):
        installed.append(release.spark_version)
        (release.home / "jars").mkdir(parents=True)

    def get(url, timeout):
        fetched.append(url.rpartition("/")[2])
        if len(fetched) == 2:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=b"jar", request=httpx.Request("GET", url))

    monkeypatch.setattr(fetch, "_install", install)
    monkeypatch.setattr(httpx, "get", get)
    release = replace(fetch.FABRIC, jars=dict.fromkeys(("one", "two"), hashlib.sha256(b"jar").hexdigest()))
    with pytest.raises(httpx.ConnectError):
        fetch.fetch_release(release)
    assert not release.ready.exists()
    fetch.fetch_release(release)
    assert release.ready.exists()
    assert installed == ["3.5.3"]
    assert fetched == ["one-3.2.0.jar", "two-3.2.0.jar", "two-3.2.0.jar"]
    with pytest.raises(SystemExit, match="SHA-256"):
        fetch.fetch_release(replace(release, delta_version="9", jars={"one": "0"}))
    assert not (release.home / "jars/one-9.jar").exists()
