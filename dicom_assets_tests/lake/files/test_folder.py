import json
import math
import time
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_assets.core.columns.schema import TIMESTAMP
from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.lake.files import data_file, folder, parquet
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.files.parquet import Spool
from dicom_assets.lake.storage.storage import Storage
from dicom_assets_tests.lakes.building import FarStorage

SCHEMA = pa.schema([("studyInstanceUid", pa.string()), ("sequence", pa.int64())])


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(Storage(str(tmp_path)), "study")


def write(files: Files, rows: pa.Table) -> list[DataFile]:
    return [DataFile(add.path, add.size, json.loads(add.stats)["numRecords"]) for add in files.write(rows)]


def statistics_of(files: Files, **columns: pa.Array) -> dict:
    (add,) = files.write(pa.table(columns))
    return json.loads(add.stats)


def rows_of(count: int) -> pa.Table:
    return pa.table([[f"1.{n}" for n in range(count)], list(range(count))], schema=SCHEMA)


# Pruning


@pytest.mark.parametrize(
    ("ranges", "least", "greatest", "held"),
    [
        ({"sequence": (5, 9)}, 9, 12, True),
        ({"sequence": (5, 9)}, 1, 5, True),
        ({"sequence": (5, 9)}, 6, 7, True),
        ({"sequence": (5, 9)}, 10, 12, False),
        ({"sequence": (5, 9)}, 1, 4, False),
        ({"sequence": (None, None)}, 1, 4, True),
        ({"sequence": (5, None)}, 10, 12, True),
        ({}, 1, 4, True),
    ],
)
def test_file_may_hold_values_in_its_range_or_any_without_one(ranges, least, greatest, held):
    assert DataFile("a", 1, 1, ranges).may_hold("sequence", least, greatest) is held


# Writing


def test_no_rows_are_no_file(files, tmp_path):
    assert list(files.write(SCHEMA.empty_table())) == []
    assert list((tmp_path / "study").iterdir()) == []


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (5, [2, 3]), (9, [3, 3, 3])])
def test_rows_are_split_evenly_in_their_order(files, monkeypatch, count, sizes):
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 4)
    written = write(files, rows_of(count))
    assert [file.rows for file in written] == sizes
    read = pa.concat_tables([files.read(file, SCHEMA) for file in written])
    assert read.equals(rows_of(count))


def test_large_rows_are_split_by_their_size(files, monkeypatch):
    monkeypatch.setattr(parquet, "BYTES_PER_FILE", 3000)
    rows = pa.table({"metadata": ["x" * 1000] * 6})
    assert [file.rows for file in write(files, rows)] == [2, 2, 2]
    monkeypatch.setattr(parquet, "BYTES_PER_FILE", 1)
    assert [file.rows for file in write(files, rows)] == [1] * 6


def test_log_tells_size_rows_ranges_and_nulls(files, tmp_path):
    (add,) = files.write(
        pa.table(
            {
                "studyInstanceUid": ["1.2", "1.10", "1.3"],
                "sequence": pa.array([7, 2**62, 5]),
                "instanceNumber": pa.array([1, None, 3], pa.int32()),
                "kvp": pa.array([0.5, -2.5, None]),
                "studyDate": pa.array([date(2026, 3, 1), date(1, 1, 1), None]),
                "timestamp": pa.array(
                    [datetime(2026, 3, 1, 1, 2, 3, 4, UTC), datetime(1, 1, 1, tzinfo=UTC), None], TIMESTAMP
                ),
                "patientName": ["ZZPATIENTZZ", None, None],
                "all": pa.array([["ZZPATIENTZZ"], [], None]),
            }
        )
    )
    assert add.size == (tmp_path / "study" / add.path).stat().st_size
    assert add.data_change
    assert "ZZPATIENTZZ" not in add.stats
    assert json.loads(add.stats) == {
        "numRecords": 3,
        "minValues": {
            "studyInstanceUid": "1.10",
            "sequence": 5,
            "instanceNumber": 1,
            "kvp": -2.5,
            "studyDate": "0001-01-01",
            "timestamp": "0001-01-01T00:00:00.000000Z",
        },
        "maxValues": {
            "studyInstanceUid": "1.3",
            "sequence": 2**62,
            "instanceNumber": 3,
            "kvp": 0.5,
            "studyDate": "2026-03-01",
            "timestamp": "2026-03-01T01:02:03.000004Z",
        },
        "nullCount": {
            "studyInstanceUid": 0,
            "sequence": 0,
            "instanceNumber": 1,
            "kvp": 1,
            "studyDate": 1,
            "timestamp": 1,
        },
    }


@pytest.mark.parametrize("values", [pa.nulls(2, pa.string()), pa.array(["1" * 5000] * 2)])
def test_uids_without_a_range_have_none_in_the_log(files, values):
    statistics = statistics_of(files, referencedSopInstanceUid=values)
    assert statistics["minValues"] == statistics["maxValues"] == {}
    assert statistics["nullCount"] == {"referencedSopInstanceUid": values.null_count}


def test_files_are_compressed_and_have_one_row_group(files, tmp_path):
    (file,) = write(files, rows_of(1000))
    metadata = pq.read_metadata(tmp_path / "study" / file.name)
    assert metadata.num_row_groups == 1
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_spooled_rows_become_files_in_their_order_as_large_as_others(files, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 5)
    spool = Spool(SCHEMA)
    for start in range(0, 9, 2):
        spool.add(rows_of(9)[start : start + 2])
    stored = [DataFile(add.path, add.size, 0) for add in files.store(spool.take())]
    assert [files.read(file, SCHEMA) for file in stored] == [rows_of(9)[:4], rows_of(9)[4:]]


def test_large_spooled_rows_are_split_by_their_size(files, monkeypatch):
    monkeypatch.setattr(parquet, "BYTES_PER_FILE", rows_of(9)[:4].nbytes)
    spool = Spool(SCHEMA)
    for start in range(9):
        spool.add(rows_of(9)[start : start + 1])
    assert [pq.read_metadata(pa.BufferReader(content)).num_rows for content in spool.take()] == [4, 4, 1]


def test_nothing_spooled_is_no_file():
    assert Spool(SCHEMA).take() == []


@pytest.mark.parametrize(
    ("groups", "ranges", "nulls"),
    [
        ([["1.5", None], ["1.3"]], ("1.3", "1.5"), 1),
        ([[None], ["1.3", "1.4"], [None]], ("1.3", "1.4"), 2),
        ([[None], [None]], (None, None), 2),
        ([["1"], ["2\ufffd" * 999]], ("1", "2\ufffd" * 999), 0),
    ],
)
def test_log_tells_ranges_and_nulls_of_all_groups_of_a_file(files, groups, ranges, nulls):
    schema = pa.schema([("studyInstanceUid", pa.string())])
    spool = Spool(schema)
    for values in groups:
        spool.add(pa.table([values], schema=schema))
    (add,) = files.store(spool.take())
    statistics = json.loads(add.stats)
    assert statistics["numRecords"] == sum(map(len, groups))
    assert (
        statistics["minValues"].get("studyInstanceUid"),
        statistics["maxValues"].get("studyInstanceUid"),
        statistics["nullCount"]["studyInstanceUid"],
    ) == (*ranges, nulls)


def test_deleted_files_are_gone(files, tmp_path):
    adds = [*files.write(rows_of(1)), *files.write(rows_of(2))]
    files.delete([adds[0].path])
    assert [file.name for file in (tmp_path / "study").iterdir()] == [adds[1].path]
    files.delete([])


def test_folder_that_cannot_be_written_is_explained(files, tmp_path):
    (tmp_path / "study").rmdir()
    (tmp_path / "study").write_text("a file in its place")
    with pytest.raises(LakeUnavailableError, match=r"^Could not write .*/study: .*DICOM_STORAGE_URL"):
        list(files.write(rows_of(1)))


# Reading


def test_wanted_columns_in_the_wanted_order_and_null_for_those_too_new(files):
    (file,) = write(files, rows_of(2))
    wanted = pa.schema([("new", pa.list_(pa.float64())), ("sequence", pa.int64())])
    read = files.read(file, wanted)
    assert read.schema == wanted
    assert read.to_pylist() == [{"new": None, "sequence": 0}, {"new": None, "sequence": 1}]


def test_only_new_columns_are_still_as_many_rows(files):
    (file,) = write(files, rows_of(2))
    assert files.read(file, pa.schema([("new", pa.string())])).to_pylist() == [{"new": None}] * 2


def test_dictionaries_stay_dictionaries(files):
    (file,) = write(files, pa.table([["1.1"] * 9, list(range(9))], schema=SCHEMA))
    read = files.read(file, SCHEMA, dictionaries=["studyInstanceUid"])
    assert pa.types.is_dictionary(read.schema.field("studyInstanceUid").type)
    assert read["studyInstanceUid"].unique().to_pylist() == ["1.1"]


def test_file_of_other_text_types_is_read_as_text(files, tmp_path):
    rows = pa.table({"studyInstanceUid": pa.array(["1.1"], pa.large_string()), "sequence": [1]})
    pq.write_table(rows, tmp_path / "study" / "other.parquet")
    assert files.read(DataFile("other.parquet", 1, 1), SCHEMA).schema == SCHEMA


def test_missing_file_is_explained(files):
    with pytest.raises(LakeUnavailableError, match=r"^Could not read .*/study: "):
        files.read(DataFile("gone.parquet", 1, 1), SCHEMA)


def test_removal_names_the_file():
    removal = DataFile("a.parquet", 17, 1).removal()
    assert (removal.path, removal.size, removal.data_change) == ("a.parquet", 17, True)
    assert Path(removal.path).name == removal.path


def small(*rows: int, size: int = 1000) -> list[DataFile]:
    return [DataFile(f"{place}", size, each, {}, place) for place, each in enumerate(rows)]


def test_small_files_are_joined_in_the_order_of_writing_when_there_are_enough():
    files = small(*[10] * data_file.JOINED_FILES)
    assert data_file.group_small_files(files[::-1]) == [files]
    assert data_file.group_small_files(files[1:]) == []


def test_large_files_are_left_alone_and_joined_ones_become_no_larger():
    large, few = parquet.ROWS_PER_FILE, [10] * data_file.JOINED_FILES
    groups = data_file.group_small_files(small(large, *few, large, *few, large))
    assert [[file.rows for file in group] for group in groups] == [few, few]
    halves = small(*[parquet.ROWS_PER_FILE // 2] * 40)
    assert data_file.group_small_files(halves) == []
    heavy = small(*[10] * 40, size=data_file.JOINED_BYTES // 2)
    assert data_file.group_small_files(heavy) == []


def test_file_larger_than_all_smaller_ones_together_is_not_moved_for_them():
    few = [data_file.MOVED_ROWS // 4] * data_file.JOINED_FILES
    before, *after = small(sum(few) + 1, *few)
    assert data_file.group_small_files([before, *after]) == [after]
    assert data_file.group_small_files([before, *after[1:]]) == []
    alike = small(sum(few), *few)
    assert data_file.group_small_files(alike) == [alike]
    tiny = small(data_file.MOVED_ROWS, *[1] * data_file.JOINED_FILES)
    assert data_file.group_small_files(tiny) == [tiny]


def test_row_is_moved_once_for_each_doubling_of_its_file_and_few_files_stay():
    files: list[DataFile] = []
    moved = 0
    for number in range(100):
        files.append(DataFile(f"{number}", 1000, 200, {}, number))
        for group in data_file.group_small_files(files):
            files = [file for file in files if file not in group]
            moved += sum(file.rows for file in group)
            files.append(DataFile(f"{number}, joined", 1000, sum(file.rows for file in group), {}, number))
    doublings = math.log2(parquet.ROWS_PER_FILE / 200)
    assert sum(file.rows for file in files) == 20_000
    assert moved <= 20_000 * doublings
    assert len(files) <= data_file.JOINED_FILES + doublings


def test_large_file_is_streamed_in_the_wanted_columns_and_types(files, monkeypatch):
    (file,) = write(files, pa.table({"a": pa.array(["x", "y", "z"], pa.string_view()), "b": [1, 2, 3]}))
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 2)
    parts = list(files.stream(file, pa.schema([("new", pa.int64()), ("a", pa.string())])))
    assert [part.to_pydict() for part in parts] == [{"new": [None, None], "a": ["x", "y"]}, {"new": [None], "a": ["z"]}]
    assert {part.schema.field("a").type for part in parts} == {pa.string()}


# Many files of an account


@pytest.fixture
def far(files, tmp_path) -> Files:
    files.write_aside("_", b"")  # for the folder
    return Files(FarStorage(str(tmp_path)), "study")


def test_files_of_an_account_are_read_side_by_side_and_given_in_their_order(far, monkeypatch):
    written = [file for count in (1, 2, 3) for file in write(far, rows_of(count))]
    read, together = Files.read, Barrier(3)

    def wait_and_read(*given) -> pa.Table:
        together.wait(60)
        return read(*given)

    monkeypatch.setattr(Files, "read", wait_and_read)
    assert [(file, len(rows)) for file, rows in far.read_each(written, SCHEMA)] == [
        *zip(written, (1, 2, 3), strict=True)
    ]


@pytest.mark.parametrize(("column", "ahead"), [("metadata", 1), ("sequence", 4)])
def test_files_are_not_read_ahead_where_they_take_much_memory(far, monkeypatch, column, ahead):
    schema = pa.schema([(column, pa.string())])
    written = [file for _ in range(9) for file in write(far, pa.table([["a"]], schema=schema))]
    monkeypatch.setattr(folder, "FILES_AHEAD", 4)
    monkeypatch.setattr(folder, "BYTES_AHEAD", written[0].size_bytes)
    read, begun = Files.read, []

    def note_and_read(files, file, schema) -> pa.Table:
        begun.append(file)
        return read(files, file, schema)

    monkeypatch.setattr(Files, "read", note_and_read)
    outstanding = []
    for number, _ in enumerate(far.read_each(written, schema), start=1):
        time.sleep(0.02)  # room for files that should not be read
        outstanding.append(len(begun) - number)
    assert max(outstanding) == ahead - 1


def test_file_of_an_account_that_is_missing_is_explained_among_others(far):
    written = [*write(far, rows_of(1)), DataFile("missing.parquet", 1, 1), *write(far, rows_of(1))]
    with pytest.raises(LakeUnavailableError, match="Could not read"):
        list(far.read_each(written, SCHEMA))
