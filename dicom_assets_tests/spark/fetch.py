"""Fetches two releases of Apache Spark with Delta's own jars: `make spark`. Takes pip (or uv) and https, no Maven."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

CACHES = Path(__file__).parents[2] / ".cache"
MAVEN = "https://repo1.maven.org/maven2/io/delta"


@dataclass(frozen=True)
class Release:
    """Apache Spark, and the Delta that is built for it."""

    spark_version: str
    delta_version: str
    folder: str
    """In `.cache`."""
    packages: tuple[str, ...]
    """Of PyPI. They stay out of .venv, where Spark's Python half would clash with the client's."""
    jars: dict[str, str]
    """Artifacts of `io.delta` with the SHA-256 of their jars. What else Delta takes comes with Spark."""

    @property
    def cache(self) -> Path:
        """Folder of the packages."""
        return CACHES / self.folder

    @property
    def home(self) -> Path:
        """What Spark calls SPARK_HOME."""
        return self.cache / "pyspark"

    @property
    def ready(self) -> Path:
        """The file that is there when all others are."""
        return self.cache / f".ready-{self.spark_version}-{self.delta_version}"


NEWEST = Release(
    "4.2.0",  # `pyspark-client` in pyproject.toml has the same
    "4.4.0",
    "spark",
    ("pyspark==4.2.0",),
    {
        "delta-spark_4.2_2.13": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
        "delta-storage": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
    },
)
FABRIC = Release(
    "3.5.3",
    "3.2.0",
    "spark-3.5",
    ("pyspark==3.5.3", "py4j==0.10.9.7"),
    {
        "delta-spark_2.12": "51d473537d1bc10c81f48b03d8e2a6b604e1b421a70835ec12e917a4245a31d5",
        "delta-storage": "58aab63eba7736fea9e03eafb0dde6704a34a70f570c1a69ab8e4012c25a95d4",
    },
)
"""What runtime 1.3 of Microsoft Fabric has, and the long-term releases of Databricks before 17."""
RELEASES = (NEWEST, FABRIC)

SPARK_VERSION = NEWEST.spark_version
DELTA_VERSION = NEWEST.delta_version
HOME = NEWEST.home


def fetch_release(release: Release) -> None:
    """Leave Spark with Delta's jars in the release's cache, whole or marked as unfinished; go on where it was left."""
    if release.ready.exists():
        return
    print(
        f"Fetching Apache Spark {release.spark_version} with Delta {release.delta_version} "
        f"into .cache/{release.folder} (once, a minute) …"
    )
    installed = release.cache / f".installed-{release.spark_version}"
    if not installed.exists():
        shutil.rmtree(release.cache, ignore_errors=True)
        _install(release)
        installed.touch()
    for artifact, digest in release.jars.items():
        _fetch_jar(release, artifact, digest)
    release.ready.touch()


def _install(release: Release) -> None:
    """Install Spark's packages, whose jars are those of Spark; pip and uv keep what they downloaded for another try."""
    options = ["install", "--quiet", "--no-deps", "--target", str(release.cache), *release.packages]
    if uv := shutil.which("uv"):
        subprocess.run([uv, "pip", *options, "--python", sys.executable], check=True)
    else:
        subprocess.run([sys.executable, "-m", "pip", *options, "--no-compile"], check=True)


def _fetch_jar(release: Release, artifact: str, digest: str) -> None:
    """Put a jar of Delta beside those of Spark, unless it is there."""
    name = f"{artifact}-{release.delta_version}.jar"
    jar = release.home / "jars" / name
    if jar.exists():
        return
    url = f"{MAVEN}/{artifact}/{release.delta_version}/{name}"
    content = httpx.get(url, timeout=60).raise_for_status().content
    if hashlib.sha256(content).hexdigest() != digest:
        raise SystemExit(f"{name} of {MAVEN} is not the file that was expected: its SHA-256 differs.")
    part = jar.with_suffix(".part")
    part.write_bytes(content)
    part.replace(jar)


if __name__ == "__main__":
    try:
        for each in RELEASES:
            fetch_release(each)
    except (subprocess.CalledProcessError, httpx.HTTPError) as error:
        raise SystemExit(f"Apache Spark could not be fetched; is PyPI or Maven Central out of reach? {error}") from None
