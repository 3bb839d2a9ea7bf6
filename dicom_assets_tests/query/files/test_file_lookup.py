"""How much of `file_index` is read to find an instance."""

import uuid

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import FILE_INDEX
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.table import delta, study_index
from dicom_assets.query.files.file_lookup import find_files
from dicom_assets_tests.core.tables.rows import moment
from dicom_assets_tests.lakes.building import build_lake, store

FILES = 40


def row(study: str, uid: str, **columns: object) -> dict:
    return {
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": study,
        "seriesInstanceUid": f"{study}.1",
        "sopInstanceUid": uid,
        "sequence": 1,
        "lastModifiedTimestamp": moment(0),
        "filePath": "a.dcm",
    } | columns


def in_order(number: int) -> str:
    """As devices make UIDs: a root of the device's own, and the time."""
    return f"1.2.840.99999.20260301{number:06}"


def at_random(number: int) -> str:
    """As PS3.5 B.2 makes UIDs, from a UUID."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, str(number)).int}"


def study_of(number: int, place: int) -> str:
    return at_random(10_000 + 2 * number + place % 2)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A lake of many files, each of two studies with four instances each."""
    monkeypatch.setattr(delta, "group_small_files", lambda files: [])

    def build(uid_of):
        lake = build_lake(tmp_path)
        for number in range(FILES):
            rows = [row(study_of(number, place), uid_of(8 * number + place)) for place in range(8)]
            store(lake, *rows, table=FILE_INDEX)
        return lake

    return build


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, ...]]:
    """The columns of every file that was read."""
    columns = []

    def counted(self, file, schema, *, dictionaries=(), original=Files.read):
        columns.append(tuple(schema.names))
        return original(self, file, schema, dictionaries=dictionaries)

    monkeypatch.setattr(Files, "read", counted)
    return columns


def find(lake, *uids: str, **narrower: str):
    return find_files(lake, pa.table({"sopInstanceUid": uids} | {name: [uid] for name, uid in narrower.items()}))


def test_uids_in_order_of_time_are_found_by_the_logs_ranges(build, reads):
    lake = build(in_order)
    reads.clear()
    lookup = find(lake, in_order(100))
    assert (lookup.files, lookup.files_read, len(lookup.rows)) == (FILES, 1, 1)
    assert len(reads) == 2
    assert find(lake, in_order(0), in_order(8 * FILES - 1)).files_read == 2
    assert find(lake, "0.1").files_read == 0


def test_random_uids_cost_one_column_of_most_files_and_with_their_study_its_own_files(build, reads):
    lake = build(at_random)
    reads.clear()
    lookup = find(lake, at_random(100))
    assert len(lookup.rows) == 1
    assert lookup.files_read > FILES / 2  # a larger file spans nearly all random UIDs
    assert reads.count(("sopInstanceUid",)) == lookup.files_read
    assert len(reads) == lookup.files_read + 1
    reads.clear()
    lookup = find(lake, at_random(100), studyInstanceUid=study_of(12, 4))
    assert (lookup.files_read, len(lookup.rows)) == (1, 1)
    assert len(reads) == 2 + 1  # what studies its files hold the lake knows, but for the file that it wrote last


def test_few_files_are_looked_into_without_the_index_of_studies(build, reads, tmp_path):
    build(in_order)
    reads.clear()
    lookup = find(build_lake(tmp_path), in_order(100), studyInstanceUid=study_of(12, 4))
    assert (lookup.files_read, len(lookup.rows), len(reads)) == (1, 1, 2)
    assert len(find(build_lake(tmp_path), in_order(100), studyInstanceUid=study_of(13, 0)).rows) == 0


def test_new_process_knows_the_studies_from_the_file_beside_the_table(build, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(study_index, "UNKNOWN_FILES", 8)
    build(at_random)
    store(build_lake(tmp_path), row(study_of(1, 1), "1.2"), table=FILE_INDEX)  # another run, which writes it
    reads.clear()
    assert find(build_lake(tmp_path), at_random(100), studyInstanceUid=study_of(12, 4)).files_read == 1
    assert len(reads) <= 2 + 2  # and the file that came after it


def test_table_without_ranges_and_without_rows(tmp_path, monkeypatch):
    lake = build_lake(tmp_path)
    assert find(lake, "1") is None
    lake.open_or_create(FILE_INDEX)
    assert len(find(lake, "1").rows) == 0
    monkeypatch.setattr("dicom_assets.lake.files.parquet.columns_with_statistics", lambda schema: ["sequence"])
    store(lake, row("1", "1.2"), row("1", "1.3"), table=FILE_INDEX)
    assert find(lake, "1.3").rows["sopInstanceUid"].to_pylist() == ["1.3"]
