"""Fetches Apache Spark and Delta's own jars: `make spark`. Takes pip (or uv) and https, no Maven."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

CACHE = Path(__file__).parents[2] / ".cache/spark"
SPARK_VERSION = "4.2.0"
"""The version that this Delta is built for. `pyspark-client` in pyproject.toml has the same."""
DELTA_VERSION = "4.4.0"
DELTA_JARS = {
    "delta-spark_4.2_2.13": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "delta-storage": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
"""Artifacts of `io.delta` with the SHA-256 of their jars. What else Delta takes to read and write comes with Spark."""
MAVEN = "https://repo1.maven.org/maven2/io/delta"
HOME = CACHE / "pyspark"
READY = CACHE / f".ready-{SPARK_VERSION}-{DELTA_VERSION}"


def fetch_spark() -> None:
    """Leave Spark with Delta's jars in `HOME`, whole or not at all."""
    if READY.exists():
        return
    print(f"Fetching Apache Spark {SPARK_VERSION} with Delta {DELTA_VERSION} into .cache/spark (once, a minute) …")
    shutil.rmtree(CACHE, ignore_errors=True)
    # Spark's jars are in pyspark's package. It stays out of .venv, where its Python half would clash with the client's.
    options = ["install", "--quiet", "--no-deps", "--target", str(CACHE), f"pyspark=={SPARK_VERSION}"]
    if uv := shutil.which("uv"):
        subprocess.run([uv, "pip", *options, "--python", sys.executable], check=True)
    else:
        subprocess.run([sys.executable, "-m", "pip", *options, "--no-compile"], check=True)
    for artifact, digest in DELTA_JARS.items():
        name = f"{artifact}-{DELTA_VERSION}.jar"
        content = httpx.get(f"{MAVEN}/{artifact}/{DELTA_VERSION}/{name}", timeout=60).raise_for_status().content
        if hashlib.sha256(content).hexdigest() != digest:
            raise SystemExit(f"{name} of {MAVEN} is not the file that was expected: its SHA-256 differs.")
        (HOME / "jars" / name).write_bytes(content)
    READY.touch()


if __name__ == "__main__":
    try:
        fetch_spark()
    except (subprocess.CalledProcessError, httpx.HTTPError) as error:
        raise SystemExit(f"Apache Spark could not be fetched; is PyPI or Maven Central out of reach? {error}") from None
