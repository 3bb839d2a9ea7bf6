"""Apache Spark with Delta's own jars, as a Spark Connect server on loopback: one Java process for all of a test run."""

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dicom_assets_tests.spark.fetch import HOME, NEWEST, Release

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REQUIRED = "REQUIRE_SPARK"
STARTED = re.compile(r"Spark Connect server started at: (\S+)")
ENDED = "The process has ended."
PATIENCE_SECONDS = 300
# Of a Java process that lives for a minute: what optimising its code would cost is never earned back.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# A process group: the process, and a guard that ends the group when nobody holds the other end of the pipe any more.
# However a test process ends, its end is closed: so nothing is left behind, or ends while somebody still uses it.
# KILL for where it was started with TERM ignored, which its processes inherit.
GUARDED = f'(("$@"; echo "{ENDED}") & cat pipe > /dev/null; kill 0; sleep 5; kill -s KILL 0) > log 2>&1 &'


def find_java(release: Release = NEWEST) -> str:
    """Path of java; skips the test where java or a release is missing, and fails it where nothing may be missing."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is not None and release.ready.exists():
        return java
    missing = "there is no java" if java is None else f"`make spark` has not put Spark into .cache/{release.folder}"
    if os.environ.get(REQUIRED):
        pytest.fail(f"No Apache Spark {release.spark_version}: {missing}; and {REQUIRED}=1 lets no test be skipped.")
    pytest.skip(f"No Apache Spark {release.spark_version}: {missing}.")


@contextmanager
def share_spark(folder: Path) -> Iterator[str]:
    """The URL of the server that is shared through this folder."""
    find_java()
    with share_process(folder, spark_command(folder)) as address:
        yield f"sc://{address}"


@contextmanager
def open_session(url: str, database: str) -> Iterator["SparkSession"]:
    """A session whose tables are in a database of this name, which goes with it."""
    from pyspark.sql import SparkSession

    session = SparkSession.builder.remote(url).create()
    session.sql(f"CREATE DATABASE {database}")
    session.sql(f"USE {database}")
    yield session
    session.sql(f"DROP DATABASE {database} CASCADE")
    session.stop()


def spark_command(folder: Path, *, master: str = "local[2]", home: Path = HOME, has_delta: bool = True) -> list[str]:
    """A small Spark on a port that the system picks, with all that it writes in this folder."""
    configuration = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": "0",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={folder} {QUICK}",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
    }
    if not has_delta:
        for name in ("spark.sql.catalog.spark_catalog", "spark.sql.extensions"):
            del configuration[name]
    command = ["env", f"SPARK_HOME={home}", str(home / "bin/spark-submit"), "--master", master, "--driver-memory", "1g"]
    for name, value in configuration.items():
        command += ["--conf", f"{name}={value}"]
    return [*command, "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]


@contextmanager
def share_process(folder: Path, command: list[str]) -> Iterator[str]:
    """The address at which the process shared through this folder listens: started by its first user, ended by none.

    It ends by itself when its last user has left.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pipe = _join(folder)
        if pipe is None:
            pipe = _start(folder, command)
        try:
            address = _address(folder / "log")
        except BaseException:
            os.close(pipe)
            raise
    try:
        yield address
    finally:
        os.close(pipe)


def _join(folder: Path) -> int | None:
    try:
        return os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # there is no pipe yet, or no guard at its other end
        return None


def _start(folder: Path, command: list[str]) -> int:
    (folder / "pipe").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe")
    (folder / "log").write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    environment |= {"SPARK_LOCAL_IP": "127.0.0.1"}
    subprocess.run(
        ["sh", "-c", GUARDED, "sh", *command],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, check=True,
    )  # fmt: skip
    return os.open(folder / "pipe", os.O_WRONLY)


def _address(log: Path) -> str:
    until = time.monotonic() + PATIENCE_SECONDS
    said = ""
    while ENDED not in said and time.monotonic() < until:
        said = log.read_text(errors="replace")
        if started := STARTED.search(said):
            return started[1]
        time.sleep(0.1)
    pytest.fail(f"Apache Spark did not start:\n{said[-3000:]}")
