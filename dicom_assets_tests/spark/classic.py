"""Apache Spark 3.5 with Delta 3.2, as Microsoft Fabric has them: a process that answers SQL over a pipe."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dicom_assets_tests.spark.fetch import FABRIC
from dicom_assets_tests.spark.server import QUICK, find_java

ROOT = Path(__file__).parents[2]
ANSWER = Path(__file__).with_name("answer.py")


class SparkFailedError(Exception):
    """What Spark says of a statement that it cannot run."""


class ClassicSpark:
    """A Spark that this process alone asks, statement by statement."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self.version: str = self._answer()["version"]

    def sql(self, statement: str) -> pa.Table:
        """Rows of a statement; of most commands a table of what they did."""
        self._process.stdin.write(f"{json.dumps(statement)}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise SparkFailedError(answer["error"])
        return pa.ipc.open_stream(base64.b64decode(answer["arrow"])).read_all()

    @contextmanager
    def configured(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Settings of Spark's session while the block runs."""
        for name, value in settings.items():
            self.sql(f"SET {name}={value}")
        try:
            yield
        finally:
            for name in settings:
                self.sql(f"RESET {name}")

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"Apache Spark {FABRIC.spark_version} ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)


@contextmanager
def start_classic_spark(
    folder: Path, command: Sequence[str] = (sys.executable, "-P", str(ANSWER))
) -> Iterator[ClassicSpark]:
    """Spark 3.5, with all that it writes in this folder; its Java process ends with it, however this one ends."""
    environment = build_environment()
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    with (
        log.open("w") as noise,
        subprocess.Popen(
            [*command, json.dumps(build_configuration(folder))],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True,
        ) as process,
    ):  # fmt: skip
        yield ClassicSpark(process, log)
        process.stdin.close()


def build_configuration(folder: Path) -> dict[str, str]:
    """Settings of a small Spark with Delta, with all that it writes in this folder."""
    return {
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={folder} {QUICK}",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.local.dir": str(folder),
        "spark.master": "local[2]",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
    }


def build_environment() -> dict[str, str]:
    """Environment of a process in which `pyspark` is Spark 3.5; skips the test where there is none."""
    java = find_java(FABRIC)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    return kept | {
        "JAVA_HOME": str(Path(java).resolve().parents[1]),
        "PYTHONPATH": f"{FABRIC.cache}{os.pathsep}{ROOT}",  # before .venv, which has the client of another release
        "SPARK_LOCAL_IP": "127.0.0.1",
        "TZ": "UTC",
    }
