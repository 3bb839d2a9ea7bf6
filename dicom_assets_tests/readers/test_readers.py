"""Every reader that docs/readers.md names gives every row of every table, and the page's snippets run as they stand."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import TABLES
from dicom_assets_tests.law.world import START
from dicom_assets_tests.readers.lake import ADDED, HOURS, NAMES, LakeWithPast, build_lake_with_past
from dicom_assets_tests.readers.snippets import PAGE, execute, snippets

KEYS = {table.name: table.key for table in TABLES}
Sql = Callable[[str], pa.Table]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> LakeWithPast:
    return build_lake_with_past(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module", autouse=True)
def at_home(lake) -> Iterator[None]:
    """Where `data/dicom` is the lake; what DuckDB installs stays there too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lake.folder)
        patch.setenv("HOME", str(lake.folder))
        patch.setenv("RUST_LOG", "error")
        yield


@pytest.fixture(scope="module")
def spark_names(at_home, shared_spark) -> dict[str, Any]:
    return execute(snippets()["Apache Spark"][0], {"spark": shared_spark})


@pytest.fixture(scope="module")
def sail_names(at_home) -> Iterator[dict[str, Any]]:
    start, stop, _ = snippets()["Sail: Spark SQL without Java"]
    names = execute(start, {})
    yield names
    execute(stop, names)


@pytest.fixture(scope="module")
def duckdb_names(at_home) -> Iterator[dict[str, Any]]:
    names = execute(snippets()["DuckDB"][0], {})
    yield names
    names["connection"].close()


@pytest.fixture(scope="module")
def polars_names(at_home) -> dict[str, Any]:
    return execute(snippets()["Polars"][0], {})


@pytest.fixture(scope="module")
def deltalake_names(at_home) -> dict[str, Any]:
    return execute(snippets()["deltalake"][0], {})


ASK: dict[str, Callable[[dict[str, Any]], Sql]] = {
    "spark": lambda names: lambda query: names["spark"].sql(query).toArrow(),
    "sail": lambda names: lambda query: names["spark"].sql(query).toArrow(),
    "duckdb": lambda names: lambda query: names["connection"].sql(query).to_arrow_table(),
    "polars": lambda names: lambda query: names["tables"].execute(query).collect().to_arrow(),
    "deltalake": lambda names: lambda query: pa.table(names["tables"].execute(query)),
}


@pytest.fixture(scope="module", params=list(ASK))
def reader(request) -> tuple[dict[str, Any], Sql]:
    """What the snippet of a reader leaves behind, and how to ask it."""
    names = request.getfixturevalue(f"{request.param}_names")
    return names, ASK[request.param](names)


def sorted_rows(table: pa.Table, key: tuple[str, ...]) -> list[dict]:
    """Rows as Python has them: timestamps in UTC, metadata as what its JSON says, without when it was read."""
    rows = table.to_pylist()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = value.astimezone(UTC)
        if "metadata" in row and row["metadata"] is not None:
            row["metadata"] = json.loads(row["metadata"])
        row.pop("ingestedAt", None)
    return sorted(rows, key=lambda row: [row[name] for name in key])


def check_every_row(read: Callable[[str], pa.Table], expected: dict[str, list[dict]]) -> None:
    for name in NAMES:
        assert sorted_rows(read(name), KEYS[name]) == expected[name], name


def modalities(lake: LakeWithPast) -> Counter[str]:
    return Counter(row["modality"] for row in lake.expected["instance"])


def values(table: pa.Table) -> list[tuple]:
    return sorted(tuple(row.values()) for row in table.to_pylist())


def joins(path: str) -> int:
    """The project's own commits that changed files and no row."""
    commits = [
        [json.loads(line) for line in log.read_text().splitlines()] for log in Path(path, "_delta_log").glob("*.json")
    ]
    return sum(
        any("remove" in action for action in commit)
        and not any(
            action["dataChange"] for each in commit for kind, action in each.items() if kind in ("add", "remove")
        )
        and any(each.get("commitInfo", {}).get("engineInfo", "").startswith("dicom-assets/") for each in commit)
        for commit in commits
    )


def test_first_example_of_the_page_reads_a_table(lake):
    study = execute(snippets()["# Reading the tables"][0], {})["study"].to_arrow()
    assert sorted_rows(study, KEYS["study"]) == lake.expected["study"]


def test_lake_has_a_past(lake):
    for name in NAMES:
        before, after = lake.files[name]
        assert before > after == 1
        history = DeltaTable(lake.path(name)).history()
        operations = Counter(entry["operation"] for entry in history)
        assert operations["OPTIMIZE"] == 1 + joins(lake.path(name)) > 1
        assert operations["MERGE"] > 3
        assert "delta-rs" in {entry["engineInfo"].partition(":")[0] for entry in history}
        assert operations["ADD COLUMN"] == (name in ADDED)
        assert lake.expected[name] != lake.before[name]
    last = START + timedelta(hours=HOURS)
    for name, columns in ADDED.items():
        for column in columns:
            filled = {row["lastModifiedTimestamp"] >= last for row in lake.expected[name] if row[column] is not None}
            assert filled == {True}, column
    gone = {row["studyInstanceUid"] for row in lake.before["study"]}
    gone -= {row["studyInstanceUid"] for row in lake.expected["study"]}
    assert gone
    assert {date(1, 1, 1), date(1582, 10, 10)} < {row["seriesDate"] for row in lake.expected["instance"]}
    assert len(modalities(lake)) > 2
    assert {row["partitionName"] for row in lake.expected["instance"]} == {"Microsoft.Default", "research"}


def test_tables_have_no_feature_that_a_reader_could_lack(lake):
    for name in NAMES:
        table = DeltaTable(lake.path(name))
        protocol = table.protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
        assert not protocol.reader_features
        assert not protocol.writer_features
        configuration = table.metadata().configuration
        assert not {key for key in configuration if "columnMapping" in key or "DeletionVectors" in key}
        for file in table.file_uris():
            arrow = pa.parquet.read_schema(file)
            assert not [field for field in arrow if pa.types.is_string_view(field.type)]


def test_reader_gives_every_row_of_every_table(reader, lake):
    names, ask = reader
    check_every_row(lambda name: ask(f"SELECT * FROM {name}"), lake.expected)
    rows = names["by_modality"]
    rows = rows if isinstance(rows, pa.Table) else rows.to_arrow()
    assert values(rows) == sorted(modalities(lake).items())
    if "before" not in names:
        return
    before = names["before"]
    (count,) = (before if isinstance(before, pa.Table) else before.to_arrow())["studies"].to_pylist()
    assert count == DeltaTable(lake.path("study"), version=1).to_pyarrow_dataset().count_rows()


def test_reader_filters_by_text_and_dates_and_joins(reader, lake):
    _, ask = reader
    instances, studies = lake.expected["instance"], lake.expected["study"]
    query = "SELECT sopInstanceUid FROM instance WHERE "
    patient = instances[-1]["patientId"]
    assert values(ask(f"{query} patientId = '{patient}'")) == sorted(
        (row["sopInstanceUid"],) for row in instances if row["patientId"] == patient
    )
    changed = ask("SELECT count(*) AS n FROM instance WHERE patientId = 'P-Größe'")["n"].to_pylist()
    assert changed == [sum(row["patientId"] == "P-Größe" for row in instances)] != [0]
    assert values(ask(f"{query} modality = 'CT' AND studyDate >= DATE '2026-03-01'")) == sorted(
        (row["sopInstanceUid"],)
        for row in instances
        if row["modality"] == "CT" and row["studyDate"] >= date(2026, 3, 1)
    )
    assert len(ask(f"{query} studyDate < DATE '2026-03-01'")) == 0
    joined = ask(
        "SELECT study.studyInstanceUid, study.instanceCount, count(*) AS n FROM study JOIN instance "
        "ON study.partitionName = instance.partitionName AND study.studyInstanceUid = instance.studyInstanceUid "
        "WHERE study.patientBirthDate > DATE '1900-01-01' GROUP BY study.studyInstanceUid, study.instanceCount"
    )
    assert values(joined) == sorted(
        (row["studyInstanceUid"], row["instanceCount"], row["instanceCount"]) for row in studies
    )


def test_sail_reads_older_versions_from_the_last_checkpoint_on(sail_names, lake):
    """If no error is raised here any more, Sail has learned it: say so in docs/readers.md."""

    def read(name: str, version: int) -> pa.Table:
        return sail_names["spark"].sql(f"SELECT * FROM {name} VERSION AS OF {version}").toArrow()

    refused = 0
    for name in NAMES:
        checkpoint = Path(lake.path(name)) / "_delta_log/_last_checkpoint"
        oldest = json.loads(checkpoint.read_text())["version"] if checkpoint.exists() else 0
        if lake.versions[name] >= oldest:
            assert sorted_rows(read(name, lake.versions[name]), KEYS[name]) == lake.before[name]
        if oldest > 2:
            with pytest.raises(Exception, match="Missing commit file"):
                read(name, 2)
            refused += 1
    assert refused


@pytest.mark.parametrize("kind", [kind for kind in ASK if kind != "sail"])
def test_reader_gives_the_rows_of_an_older_version(kind, request, lake):
    names = request.getfixturevalue(f"{kind}_names")
    ask = ASK[kind](names)

    def read(name: str) -> pa.Table:
        version, path = lake.versions[name], lake.path(name)
        if kind == "spark":
            return ask(f"SELECT * FROM {name} VERSION AS OF {version}")
        if kind == "duckdb":
            return ask(f"SELECT * FROM delta_scan('{path}', version => {version})")
        if kind == "polars":
            return names["pl"].scan_delta(path, version=version).collect().to_arrow()
        table = DeltaTable(path, version=version)
        return pa.table(names["QueryBuilder"]().register("it", table).execute("SELECT * FROM it"))

    check_every_row(read, lake.before)


def test_pyarrow_gives_every_row_and_filters_by_text_and_dates(lake):
    names = execute(snippets()["pyarrow"][0], {})
    check_every_row(lambda name: DeltaTable(lake.path(name)).to_pyarrow_dataset().to_table(), lake.expected)
    old = {name: DeltaTable(lake.path(name), version=lake.versions[name]) for name in NAMES}
    check_every_row(lambda name: old[name].to_pyarrow_dataset().to_table(), lake.before)
    assert values(names["by_modality"]) == sorted(modalities(lake).items())
    assert values(names["ct"]) == sorted(
        (row["sopInstanceUid"], row["filePath"]) for row in lake.expected["instance"] if row["modality"] == "CT"
    )
    corrected = (pc.field("patientId") == "P-Größe") & (pc.field("studyDate") >= date(2026, 3, 1))
    found = names["instance"].to_table(filter=corrected)
    assert len(found) == sum(row["patientId"] == "P-Größe" for row in lake.expected["instance"])
    assert names["before"] == DeltaTable(lake.path("study"), version=1).to_pyarrow_dataset().count_rows()


def test_page_names_the_versions_that_are_tested():
    from importlib.metadata import version

    from dicom_assets_tests.spark.fetch import DELTA_VERSION, SPARK_VERSION

    page = PAGE.read_text(encoding="utf-8")
    assert f"{SPARK_VERSION} with Delta {DELTA_VERSION}" in page
    assert f"`pip install pysail=={version('pysail')} pyspark-client=={version('pyspark-client')}`" in page
    duckdb = version("duckdb")
    assert f"`pip install duckdb=={duckdb} duckdb-extensions=={duckdb} duckdb-extension-delta=={duckdb}`" in page
