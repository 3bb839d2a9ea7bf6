"""Tables that several services share: each service sees and writes its own rows, readers see all of them."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from duckdb_extensions import import_extension

from dicom_assets.core.columns.schema import FILE_INDEX, SERVICE, STUDY, Column
from dicom_assets.core.errors import CursorError, ForeignTableError, LakeUnavailableError, VersionGoneError
from dicom_assets.lake.table import study_index
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import commit_name
from dicom_assets.lake.table_changes import open_changes
from dicom_assets.lake.upkeep import maintain
from dicom_assets.query.files.file_lookup import find_files
from dicom_assets.query.sql.engine import AsOf, ask
from dicom_assets_tests.lakes.building import (
    Wanted,
    build_lake,
    contents,
    hours_ago,
    instance_of,
    live_files,
    read,
    store,
    study,
)

RETENTION = 48


@pytest.fixture
def north(tmp_path) -> Lake:
    return build_lake(tmp_path, service="north", retention_hours=RETENTION)


@pytest.fixture
def south(tmp_path) -> Lake:
    return build_lake(tmp_path, service="south", retention_hours=RETENTION)


@pytest.fixture
def filled(north, south) -> Lake:
    """Both have a study of the same UID."""
    store(north, study("1", patientSex="F"), study("2"))
    store(south, study("1", patientSex="M"))
    return north


def whole(lake: Lake) -> list[tuple[str, str]]:
    """Service and study of every row of `study`, by an open reader."""
    rows = DeltaTable(lake.uri(STUDY)).to_pyarrow_table(columns=[SERVICE.name, "studyInstanceUid"])
    return sorted(tuple(row.values()) for row in rows.to_pylist())


# Rows


def test_rows_of_the_same_key_in_two_services_are_two_and_each_service_writes_its_own(filled, north, south):
    assert [row["patientSex"] for row in (*read(north)[:1], *read(south))] == ["F", "M"]
    written = south.write(STUDY, Wanted([study("3")], gone=[study("1"), study("2")]))
    assert (written.inserted, written.deleted, written.row_count) == (1, 1, 1)
    assert [row["studyInstanceUid"] for row in read(north)] == ["1", "2"]
    assert whole(north) == [("north", "1"), ("north", "2"), ("south", "3")]
    assert store(north, study("1", patientSex="F"), study("2")).commits == 0


def test_services_that_share_a_table_declare_no_column_and_readers_see_one(filled, south, tmp_path, monkeypatch):
    assert south.open(STUDY).schema.names == STUDY.schema.names
    delta = DeltaTable(filled.uri(STUDY))
    assert delta.schema().fields[0].name == "serviceName"
    assert delta.metadata().partition_columns == ["serviceName"]
    assert delta.protocol().min_reader_version == 1
    expected = [("north", "1", "F"), ("north", "2", None), ("south", "1", "M")]
    columns = ["serviceName", "studyInstanceUid", "patientSex"]
    monkeypatch.setenv("HOME", str(tmp_path))  # what DuckDB installs stays there
    connection = duckdb.connect()
    import_extension("delta", con=connection)
    connection.load_extension("delta")
    found = {
        "deltalake": delta.to_pyarrow_table(columns=columns),
        "pyarrow": delta.to_pyarrow_dataset().to_table(columns=columns),
        "polars": pl.scan_delta(filled.uri(STUDY)).select(columns).collect().to_arrow(),
        "duckdb": connection.sql(f"FROM delta_scan('{filled.uri(STUDY)}')").select(*columns).to_arrow_table(),
        "duckdb by pyarrow": duckdb.from_arrow(delta.to_pyarrow_dataset()).select(*columns).to_arrow_table(),
    }
    for reader, rows in found.items():
        assert sorted((tuple(row.values()) for row in rows.to_pylist()), key=str) == expected, reader
    connection.close()
    north_alone = delta.to_pyarrow_dataset().to_table(filter=pc.field("serviceName") == "north")
    assert len(north_alone) == 2
    assert {name.partition("/")[0] for name in live_files(south)} == {"serviceName=south"}


def test_files_of_many_studies_are_kept_by_service(filled, south, tmp_path, monkeypatch):
    monkeypatch.setattr(study_index, "UNKNOWN_FILES", 0)
    for lake in (build_lake(tmp_path, service=name) for name in ("north", "south")):
        store(lake, study("1", patientSex="O"))
    names = {path.name for path in Path(filled.uri(STUDY), "_studies").iterdir()}
    assert names == {"north.arrow", "south.arrow"}
    assert [row["patientSex"] for row in (*read(filled)[:1], *read(south))] == ["O", "O"]


def test_column_that_one_service_adds_is_there_for_all(filled, south):
    wider = replace(STUDY, columns=(*STUDY.columns, Column("kvp", pa.float64(), "KVP")))
    store(filled, study("3", kvp=1.5), table=wider)
    assert south.open(STUDY).schema.names == wider.schema.names
    store(south, study("4"))
    assert whole(south) == [("north", "1"), ("north", "2"), ("north", "3"), ("south", "1"), ("south", "4")]


def test_files_of_instances_are_found_among_those_of_the_service(north, south):
    for lake, path in ((north, "n.dcm"), (south, "s.dcm")):
        store(lake, instance_of("1", filePath=path), table=FILE_INDEX)
    keys = pa.table({"sopInstanceUid": [instance_of("1")["sopInstanceUid"]]})
    assert [find_files(lake, keys).rows["filePath"].to_pylist() for lake in (north, south)] == [["n.dcm"], ["s.dcm"]]


# One log


class Meanwhile(Wanted):
    """A derivation during which something else happens."""

    def __init__(self, rows: list[dict], happens) -> None:
        super().__init__(rows)
        self._happens = happens

    def build(self):
        self._happens()
        return super().build()


def test_commit_of_another_service_costs_no_attempt(filled, north, south):
    numbers = iter(range(10, 20))
    wanted = Meanwhile([study("3")], lambda: [store(south, study(str(next(numbers)))) for _ in range(3)])
    written = north.write(STUDY, wanted)
    assert (wanted.builds, written.conflicts, written.commits, written.row_count) == (1, 0, 1, 3)
    assert len(whole(north)) == 7


def test_commit_of_the_same_service_is_a_conflict_still(filled, north, south, tmp_path):
    twin = build_lake(tmp_path, service="north")

    def both() -> None:
        if wanted.builds == 0:
            store(south, study("8"))
            store(twin, study("3", patientSex="O"))

    wanted = Meanwhile([study("3", patientSex="F")], both)
    written = north.write(STUDY, wanted)
    assert (wanted.builds, written.conflicts, written.updated, written.inserted) == (2, 1, 1, 0)
    assert [row.get("patientSex") for row in read(north)] == ["F", None, "F"]
    stored = {str(path.relative_to(north.uri(STUDY))) for path in Path(north.uri(STUDY)).rglob("*north/*.parquet")}
    assert live_files(north) < stored
    assert len(stored) == 3  # of the lost attempt nothing is left


def test_commits_of_other_services_are_no_news_of_a_source(filled, north, south, tmp_path):
    version = north.open(STUDY).version
    store(south, study("5"))
    store(south, study("6"))
    assert north.has_version(STUDY, version)
    assert not south.has_version(STUDY, version)
    store(build_lake(tmp_path, service="north"), study("7"))
    assert not north.has_version(STUDY, version)
    assert not north.has_version(STUDY, version + 2)
    assert north.has_version(STUDY, version + 3)
    assert not build_lake(tmp_path, service="north").has_version(STUDY, version)


def test_services_that_write_at_once_lose_no_attempt_however_many_they_are(tmp_path):
    names = [f"s{number}" for number in range(6)]
    together = Barrier(len(names))

    def write(name: str) -> int:
        lake = build_lake(tmp_path, service=name)
        together.wait(300)
        derivations = [Wanted([study(f"1.{number}")]) for number in range(6)]
        lost = sum(lake.write(STUDY, each).conflicts for each in derivations)
        assert [each.builds for each in derivations] == [1] * 6
        return lost

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(write, names)) == [0] * len(names)
    lake = build_lake(tmp_path, service="s0")
    assert len(whole(lake)) == 36
    assert lake.open(STUDY).version == 36


def test_small_files_of_a_service_are_joined_beside_commits_of_another(filled, north, south, monkeypatch):
    for number in range(10, 16):
        store(north, study(str(number)))
    commit, others = Lake._commit, iter(range(3))

    def after_another(lake: Lake, snapshot, actions) -> None:
        if lake is north and (number := next(others, None)) is not None:
            store(south, study(f"9.{number}"))
        commit(lake, snapshot, actions)

    monkeypatch.setattr(Lake, "_commit", after_another)
    store(north, study("16"))
    assert len(live_files(north)) == 1
    assert len(read(north)) == 9
    assert len(read(south)) == 4


def test_staged_rows_of_another_service_are_no_sign_of_a_killed_writer(filled):
    north, south = (build_lake(Path(filled.storage.url), service=name).staging(STUDY) for name in ("north", "south"))
    name = north.put(Wanted([study("1")]).desired, STUDY)
    assert (north.names(), south.names()) == ([name], [])


# What is in the way


def test_table_of_one_service_is_not_shared_and_not_touched(tmp_path, north):
    alone = build_lake(tmp_path)
    store(alone, study("1"))
    before = contents(tmp_path)
    with pytest.raises(ForeignTableError) as caught:
        store(north, study("1"))
    assert str(caught.value) == (
        f"The table at {tmp_path}/study is not the study table of this project: it has the rows of one service, and no "
        "partitions by serviceName, as tables have that several services share. Nothing was written to it. Move it "
        "away, or choose another place with DICOM_STUDY_TABLE_PATH."
    )
    assert contents(tmp_path) == before


def test_shared_table_is_not_one_service_s_and_not_touched(filled, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(ForeignTableError, match='several services share it, which is said by tables = "shared"'):
        store(build_lake(tmp_path), study("1"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (None, "it is partitioned, and ours are not\\."),
        ("north", "it is partitioned by patientSex, and not by serviceName\\."),
    ],
)
def test_table_with_other_partitions_is_foreign(tmp_path, service, told):
    DeltaTable.create(str(tmp_path / "study"), STUDY.schema, partition_by=["patientSex"])
    with pytest.raises(ForeignTableError, match=told):
        store(build_lake(tmp_path, service=service), study("1"))


# Upkeep


def stored_files(lake: Lake, service: str) -> set[str]:
    return {path.name for path in Path(lake.uri(STUDY), f"serviceName={service}").iterdir()}


def test_upkeep_of_one_service_leaves_the_files_of_another(north, south):
    for lake in (north, south):
        with hours_ago(lake, RETENTION + 1):
            store(lake, study("1"), study("2"))
            store(lake, study("1", patientSex="F"))
            (Path(lake.uri(STUDY)) / f"serviceName={lake.scope.service}/part-torn.parquet#1").touch()
        store(lake, study("1", patientSex="M"), study("2", patientSex="M"))
        store(lake, study("3"))
    time.sleep(0.01)
    before, of_south = read(south), stored_files(south, "south")
    preview = maintain(north, STUDY, dry_run=True)
    assert (preview.removed_files, preview.joined_files) == (2, 2)
    done = maintain(north, STUDY)
    assert (done.removed_files, done.joined_files, done.after.live_files) == (2, 2, 1)
    assert done.after.stored_files == len(stored_files(north, "north")) == 4
    assert stored_files(south, "south") == of_south
    assert read(south) == before
    assert maintain(south, STUDY).removed_files == 2
    assert [len(whole(lake)) for lake in (north, south)] == [6, 6]


def test_versions_that_upkeep_tells_can_be_read(north, south):
    with hours_ago(north, RETENTION + 2):
        store(north, study("1"))
        store(south, study("1"))
    with hours_ago(north, RETENTION + 1):
        store(north, study("1", patientSex="F"))
    store(south, study("2"))
    store(north, study("1", patientSex="M"))
    oldest = maintain(north, STUDY).oldest_version
    assert [row["patientSex"] for row in north.open(STUDY, oldest).read_table().to_pylist()] == ["F"]
    assert oldest == 3


def test_upkeep_of_two_services_at_once_ends(filled, tmp_path):
    for number in range(12):
        for name in ("north", "south"):
            store(build_lake(tmp_path, service=name), study(f"7.{number}"))
    for path in Path(filled.uri(STUDY)).rglob("*"):
        os.utime(path, (time.time() - 9000 * 3600,) * 2)
    together = Barrier(2)

    def look_after(name: str) -> bool:
        lake = build_lake(tmp_path, service=name, retention_hours=RETENTION)
        together.wait(300)
        return maintain(lake, STUDY).is_complete

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look_after, ["north", "south"])) == [True, True]
    assert len(whole(filled)) == 27


def test_log_is_cleaned_by_upkeep_alone(filled):
    for number in range(10):
        store(filled, study(f"1.{number}"))
    for path in Path(filled.uri(STUDY)).rglob("*"):
        os.utime(path, (time.time() - 9000 * 3600,) * 2)
    for number in range(10):
        store(filled, study(f"2.{number}"))
    assert filled.open(STUDY).version > 20
    assert Path(filled.uri(STUDY), commit_name(0)).exists()
    assert maintain(filled, STUDY).removed_log_files > 0
    assert not Path(filled.uri(STUDY), commit_name(0)).exists()


def test_log_that_another_service_cleans_at_the_same_time_is_clean(filled, monkeypatch):
    clean, refusals = DeltaTable.cleanup_metadata, iter(["Object at location …/00000000000000000003.json not found"])

    def clean_beside(table: DeltaTable) -> None:
        if (refusal := next(refusals, None)) is not None:
            raise DeltaError(refusal)
        clean(table)

    monkeypatch.setattr(DeltaTable, "cleanup_metadata", clean_beside)
    assert maintain(filled, STUDY).is_complete
    refusals = iter(["disk is full"])
    with pytest.raises(LakeUnavailableError, match=r"Could not clean the log of .*: disk is full"):
        maintain(filled, STUDY)


def test_rows_of_a_service_that_left_stay_until_they_are_deleted_by_hand(filled, tmp_path):
    gone = build_lake(tmp_path, service="gone", retention_hours=RETENTION)
    store(gone, study("1"), study("2"))
    store(filled, study("4"))
    assert maintain(filled, STUDY).is_complete
    assert [row for row in whole(filled) if row[0] == "gone"] == [("gone", "1"), ("gone", "2")]
    before = read(filled)
    delta = DeltaTable(filled.uri(STUDY))
    delta.delete("serviceName = 'gone'")
    delta.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert read(filled) == before
    assert stored_files(gone, "gone") == set()
    assert store(filled, study("5")).row_count == 4
    assert store(gone, study("1")).row_count == 1


# Readers of ours


def test_changes_are_those_of_the_service(filled, north, south):
    since = north.open(STUDY).version
    store(south, study("8"))
    store(north, study("2", patientSex="O"), study("3"))
    found = pa.table(open_changes(north, STUDY, since)).to_pylist()
    assert {(row["studyInstanceUid"], row["_change_type"]) for row in found} == {
        ("2", "update_postimage"),
        ("3", "insert"),
    }
    assert len(pa.table(open_changes(south, STUDY, None))) == 2
    with pytest.raises(CursorError):
        open_changes(south, STUDY, since, table_id=open_changes(north, STUDY, since).table_id)


def test_changes_that_are_not_to_be_had_are_told_by_the_files_of_the_service(north, south):
    with hours_ago(north, RETENTION + 2):
        store(north, study("1"))
        store(south, study("1"))
    since = north.open(STUDY).version
    with hours_ago(north, RETENTION + 1):
        store(north, study("1", patientSex="F"))
        store(south, study("1", patientSex="F"))
    for lake in (north, south):
        for name in live_files(lake) ^ {file.name for file in lake.open(STUDY, since).files}:
            if name not in live_files(lake):
                Path(lake.uri(STUDY), name).unlink()
    with pytest.raises(VersionGoneError, match=f"They are from version {since + 1} on"):
        open_changes(north, STUDY, since)


def rows_of(answer) -> list[tuple]:
    return [tuple(row.values()) for batch in answer for row in batch.to_pylist()]


def test_sql_asks_all_services_or_one(filled, north, south, tmp_path):
    lakes = {"north": north, "south": south}
    store(build_lake(tmp_path, service="gone"), study("9"))
    assert rows_of(ask(lakes, "SELECT serviceName, count(*) FROM study GROUP BY 1 ORDER BY 1")) == [
        ("gone", 1),
        ("north", 2),
        ("south", 1),
    ]
    assert ask(lakes, "SELECT * FROM study").schema.names[0] == "serviceName"
    assert ask(lakes, "SELECT * FROM south.study").schema.names == STUDY.schema.names
    assert rows_of(ask(lakes, "SELECT patientSex FROM south.study")) == [("M",)]
    assert rows_of(ask(south, "SELECT patientSex FROM study")) == [("M",)]
    assert rows_of(ask(south, "SELECT count(*) FROM study", as_of=AsOf(versions={"study": 1}))) == [(0,)]
    assert rows_of(ask(lakes, "SELECT count(*) FROM study", as_of=AsOf(versions={"study": 2}))) == [(3,)]
    assert [row[:2] for row in rows_of(ask(lakes, "SHOW TABLES"))] == [("north.study", 2), ("south.study", 1)]
    assert rows_of(ask(lakes, "DESCRIBE study"))[0][0] == "serviceName"
    assert rows_of(ask(south, "DESCRIBE study"))[0][0] == "partitionName"


def test_statement_of_one_service_reads_no_file_of_another(filled, north, south):
    plan = str(rows_of(ask({"north": north, "south": south}, "EXPLAIN SELECT patientSex FROM south.study")))
    assert "serviceName=south" in plan
    assert "serviceName=north" not in plan


def test_log_says_of_each_file_whose_it_is(filled, south):
    version = store(south, study("1", patientSex="O")).version
    lines = Path(filled.uri(STUDY), commit_name(version)).read_text().splitlines()
    actions = {kind: action for line in lines for kind, action in json.loads(line).items()}
    assert [actions[kind]["partitionValues"] for kind in ("add", "remove")] == [{"serviceName": "south"}] * 2
    assert "serviceName" not in json.loads(actions["add"]["stats"])["minValues"]
