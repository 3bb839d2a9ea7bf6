from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table import study_index
from dicom_assets_tests.lakes.building import build_lake, data_files, read, store, study

UIDS = "123456"


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    monkeypatch.setattr(study_index, "UNKNOWN_FILES", 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A table of six files, each of one study, written by a lake that is gone."""
    lake = build_lake(tmp_path)
    for uid in UIDS:
        store(lake, study(uid))
    store(build_lake(tmp_path), study("1", patientSex="F"))
    return tmp_path


@pytest.fixture
def looks(monkeypatch) -> list[str]:
    """Files whose studies were looked up in the file itself."""
    names: list[str] = []

    def counted(self, file, schema, *, dictionaries=(), original=Files.read):
        if dictionaries:
            names.append(file.name)
        return original(self, file, schema, dictionaries=dictionaries)

    monkeypatch.setattr(Files, "read", counted)
    return names


def test_a_new_run_looks_only_into_files_it_knows_nothing_of(folder, looks):
    assert (folder / "study" / study_index.NAME).exists()
    assert store(build_lake(folder), study("3", patientSex="M")).updated == 1
    assert len(looks) == 1  # the file that the last run wrote
    assert len(read(build_lake(folder))) == len(UIDS)


@pytest.mark.parametrize("content", [b"", b"not Arrow", b"ARROW1\0\0"])
def test_a_broken_index_is_passed_over(folder, looks, content):
    (folder / "study" / study_index.NAME).write_bytes(content)
    assert store(build_lake(folder), study("3", patientSex="M")).updated == 1
    assert len(looks) == len(UIDS)


def test_an_index_of_another_shape_is_passed_over(folder, looks):
    with pa.ipc.new_file(str(folder / "study" / study_index.NAME), pa.schema([("other", pa.string())])):
        pass
    assert store(build_lake(folder), study("3", patientSex="M")).updated == 1


def index(folder: Path) -> Path:
    return folder / "study" / study_index.NAME


def damages(content: bytes) -> Iterator[bytes]:
    """The content with one bit flipped, at very many places; cut short; longer; and as earlier versions wrote it."""
    step = max(1, len(content) // 400)
    for place in range(0, len(content), step):
        yield content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
    yield from (content[:length] for length in range(0, len(content), 10 * step))
    yield content + b"\0"
    yield content[content.index(b"ARROW1") :]


def test_a_damaged_index_changes_no_answer_and_is_replaced(folder, looks):
    whole = index(folder).read_bytes()
    damaged = list(damages(whole))
    assert len(damaged) > 400
    names = {file.name for file in build_lake(folder).open(STUDY).files}
    for content in damaged:
        index(folder).write_bytes(content)
        looks.clear()
        (found,) = build_lake(folder).open(STUDY).files_of_studies(pa.array(["3"]))
        assert sorted(looks) == sorted(names), "the index was believed"
        assert found.name in names
        assert len(index(folder).read_bytes()) > 0
    assert study_index._verify(index(folder).read_bytes()) is not None
    looks.clear()
    assert build_lake(folder).open(STUDY).files_of_studies(pa.array(["3"]))[0].name == found.name
    assert looks == []


def test_an_index_that_cannot_be_read_is_done_without(folder, monkeypatch):
    def refuse(self, name):
        raise OSError("a broken disk")

    monkeypatch.setattr(Files, "read_aside", refuse)
    assert len(build_lake(folder).open(STUDY).files_of_studies(pa.array(["3"]))) == 1


def test_a_lost_index_is_written_again(folder, looks):
    (folder / "study" / study_index.NAME).unlink()
    store(build_lake(folder), study("3", patientSex="M"))
    assert (folder / "study" / study_index.NAME).exists()


def test_an_index_that_cannot_be_written_is_done_without(folder, monkeypatch):
    (folder / "study" / study_index.NAME).unlink()

    def refuse(self, name, content):
        raise LakeUnavailableError("no space left")

    monkeypatch.setattr(Files, "write_aside", refuse)
    assert store(build_lake(folder), study("3", patientSex="M")).updated == 1


def test_delta_takes_no_notice_of_the_index(folder):
    table = DeltaTable(folder / "study")
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    assert (folder / "study" / study_index.NAME).exists()
    assert len(data_files(build_lake(folder))) == len(UIDS)
    assert DeltaTable(folder / "study").count() == len(UIDS)


def test_nothing_lies_aside_where_nothing_was_put(tmp_path):
    build_lake(tmp_path).open_or_create(STUDY)
    assert Files(Storage(str(tmp_path)), "study").read_aside(study_index.NAME) is None
