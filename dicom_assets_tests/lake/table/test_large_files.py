"""Files as other engines' compaction leaves them: of any size, and read in parts."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, STUDY
from dicom_assets.derive import agreement
from dicom_assets.derive.agreement import audit
from dicom_assets.derive.derivation import InstanceDerivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.files import data_file, parquet
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import FixedRows
from dicom_assets.lake.upkeep import maintain
from dicom_assets.query.files.file_lookup import find_files
from dicom_assets_tests.core.tables.rows import build_rows, entry
from dicom_assets_tests.lakes.building import Wanted, build_lake, instance_of, live_files, read, store, study
from dicom_assets_tests.law.world import hours

PART = 10


@pytest.fixture
def lake(tmp_path, monkeypatch) -> Lake:
    """Files that hold ten rows each; larger ones are of others."""
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", PART)
    monkeypatch.setattr(data_file, "JOINED_FILES", 1000)
    return build_lake(tmp_path)


@pytest.fixture
def largest(monkeypatch) -> list[int]:
    """Rows of all tables that were read from files, a table each."""
    seen: list[int] = []
    fit = Files._fit

    def counted(self, rows, file, schema):
        seen.append(len(rows))
        return fit(self, rows, file, schema)

    monkeypatch.setattr(Files, "_fit", counted)
    return seen


def compact(lake: Lake, table) -> None:
    lake.open(table).connect().optimize.compact()
    assert len(live_files(lake, table)) == 1


def test_merge_into_a_large_file_reads_and_writes_it_in_parts(lake, largest):
    store(lake, *(study(f"1.{number}", patientSex="F") for number in range(95)))
    compact(lake, STUDY)
    wanted = Wanted([study("1.7", patientSex="M"), study("1.90", patientSex="M"), study("2")], [study("1.50")])
    written = lake.write(STUDY, wanted)
    assert (written.inserted, written.updated, written.deleted, written.row_count) == (1, 2, 1, 95)
    assert max(largest) <= PART
    assert all(file.rows <= PART for file in lake.open(STUDY).files)
    assert max(len(rows) for _, rows in lake.open(STUDY).read()) <= PART
    found = {row["studyInstanceUid"]: row.get("patientSex") for row in read(lake)}
    expected = {f"1.{number}": "F" for number in range(95)} | {"1.7": "M", "1.90": "M", "2": None}
    assert found == {uid: sex for uid, sex in expected.items() if uid != "1.50"}
    assert lake.write(STUDY, wanted).commits == 0


def test_large_file_in_which_nothing_changes_stays(lake, largest):
    store(lake, *(study(f"1.{number}") for number in range(95)))
    compact(lake, STUDY)
    before = live_files(lake)
    written = store(lake, study("1.7"), study("1.94"), study("1.95"))
    assert (written.inserted, written.updated) == (1, 0)
    assert before < live_files(lake)
    assert max(largest) <= PART


def test_row_groups_of_a_few_rows_make_no_files_of_a_few_rows(lake, tmp_path):
    store(lake, *(study(f"1.{number}") for number in range(30)))
    compact(lake, STUDY)
    (file,) = lake.open(STUDY).files
    path = Path(lake.uri(STUDY), file.name)
    content = pq.read_table(path)
    pq.write_table(content, path, row_group_size=2)
    lake = build_lake(tmp_path)
    lake.write(STUDY, Wanted([study("1.7", patientSex="M")]))
    assert len(lake.open(STUDY).files) == 3


def test_instances_are_derived_from_a_large_file_in_parts(lake, largest):
    entries = [
        entry(number, sopInstanceUid=f"1.{number}", metadata={"00100020": {"vr": "LO", "Value": [str(number)]}})
        for number in range(75)
    ]
    store(lake, *entries, table=CHANGE_FEED)
    compact(lake, CHANGE_FEED)
    lake = build_lake(Path(lake.storage.url))
    desired = InstanceDerivation(FeedWindow(lake, hours(0, 24))).build()
    assert sorted(desired.rows["patientId"].to_pylist()) == sorted(str(number) for number in range(75))
    assert max(largest) <= PART


def test_files_are_found_and_audited_in_parts(lake, largest, monkeypatch):
    monkeypatch.setattr(agreement, "ROWS_AT_ONCE", 20)
    rows = [
        instance_of(f"1.{number // 5}", number, sopInstanceUid=f"1.9.{number}", filePath="f") for number in range(75)
    ]
    store(lake, *rows, table=INSTANCE)
    store(lake, *({**row, "fileUrl": "/f"} for row in rows), table=FILE_INDEX)
    for table in (INSTANCE, FILE_INDEX):
        compact(lake, table)
    found = find_files(lake, pa.table({"sopInstanceUid": ["1.9.3", "1.9.70"]}))
    assert sorted(found.rows["sequence"].to_pylist()) == [3, 70]
    groups = list(agreement._groups_of_studies(lake, [INSTANCE]))
    assert len(groups) == 4
    assert pc.sum(pa.array(map(len, groups))).as_py() == 15
    assert audit(lake)[FILE_INDEX.name].faults == 0
    assert max(largest) <= PART


def test_large_file_that_is_written_anew_is_read_in_parts(lake, largest):
    store(lake, *(entry(number) for number in range(75)), table=CHANGE_FEED)
    compact(lake, CHANGE_FEED)
    snapshot = lake.open(CHANGE_FEED)
    assert lake.join(snapshot, [snapshot.files])
    assert len(live_files(lake, CHANGE_FEED)) == 8
    assert max(largest) <= PART
    assert len(read(lake, CHANGE_FEED)) == 75
    assert maintain(lake, CHANGE_FEED).is_complete


MEMORY = """
import sys
import pyarrow as pa
from dicom_assets.derive.derivation import InstanceDerivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets_tests.lakes.building import Wanted, build_lake
from dicom_assets_tests.core.tables.rows import entry, moment
from dicom_assets_tests.law.world import hours
lake = build_lake(sys.argv[1])
rows = [entry(number, state="Replaced", ingestedAt=moment(99)) for number in range(5)]
written = lake.write(CHANGE_FEED, Wanted(rows, table=CHANGE_FEED))
print(pa.default_memory_pool().max_memory(), written.updated)
"""


def test_memory_that_a_large_file_takes_is_bounded(tmp_path):
    """Eighty thousand entries in one file: 320 MB of metadata, written by others in one group."""
    lake = build_lake(tmp_path)
    rows = pa.concat_tables([_entries(number) for number in range(0, 80_000, 10_000)])
    lake.open_or_create(CHANGE_FEED)
    lake.write(CHANGE_FEED, FixedRows(rows.slice(0, 1), CHANGE_FEED))
    (file,) = lake.open(CHANGE_FEED).files
    path = Path(lake.uri(CHANGE_FEED), file.name)
    pq.write_table(rows.cast(CHANGE_FEED.schema), path, compression="zstd", row_group_size=len(rows))
    log = Path(lake.uri(CHANGE_FEED), "_delta_log", f"{1:020}.json")
    log.write_text(_without_statistics(log.read_text(), path.stat().st_size))
    assert rows.nbytes > 300 * 2**20
    told = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], check=True, capture_output=True, text=True)
    peak, updated = map(int, told.stdout.split())
    assert updated == 5
    assert peak < 256 * 2**20
    assert build_lake(tmp_path).open(CHANGE_FEED).row_count == 80_000


def _entries(first: int) -> pa.Table:
    rows = build_rows([entry(number) for number in range(first, first + 10_000)], CHANGE_FEED)
    place = rows.schema.get_field_index("metadata")
    texts = [f'{{"00100020":{{"vr":"LO","Value":["{number:04000}"]}}}}' for number in range(first, first + len(rows))]
    return rows.set_column(place, "metadata", pa.array(texts, rows.schema.field(place).type))


def _without_statistics(log: str, size: int) -> str:
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        if "add" in line:
            del line["add"]["stats"]
            line["add"]["size"] = size
    return "\n".join(map(json.dumps, lines))
