import io
import os
import traceback

import obstore
import pytest
from obstore.store import LocalStore
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_assets.core.errors import InstanceFileGoneError, LakeRefusedError, LakeUnavailableError
from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.query.files.dicom_files import FIRST_BYTES, LEAST_BYTES, DicomFile, FileSystem
from dicom_assets_tests.emulator.conftest import metadata_of

AZURE = "abfss://files@account.dfs.core.windows.net"
CONTENT = os.urandom(5 * LEAST_BYTES)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "a.dcm").write_bytes(CONTENT)
    return LocalStore(tmp_path)


def ranged(store, path="a.dcm") -> DicomFile:
    return DicomFile(store, path, LakeUnavailableError)


def test_header_within_the_first_bytes_takes_one_request(store):
    file = ranged(store)
    assert file.read(100) == CONTENT[:100]
    assert file.seek(FIRST_BYTES - 10) == file.tell() == FIRST_BYTES - 10
    assert file.read(10) == CONTENT[FIRST_BYTES - 10 : FIRST_BYTES]
    assert file.requests == 1


def test_what_lies_beyond_is_fetched_in_ever_larger_pieces(store):
    file = io.BufferedReader(ranged(store))
    assert file.read() == CONTENT
    assert file.raw.requests <= 4
    file.seek(-5, io.SEEK_END)
    assert file.read(10) == CONTENT[-5:]
    assert file.read(1) == b""
    file.seek(3)
    file.seek(4, io.SEEK_CUR)
    assert file.read(3) == CONTENT[7:10]
    with pytest.raises(ValueError, match="negative seek"):
        file.raw.seek(-1)


def test_large_read_is_one_request(store):
    file = ranged(store)
    file.seek(FIRST_BYTES)
    assert file.read(4 * LEAST_BYTES) == CONTENT[FIRST_BYTES : FIRST_BYTES + 4 * LEAST_BYTES]
    assert file.requests == 2


@pytest.mark.parametrize("size", [0, 1, FIRST_BYTES, FIRST_BYTES + 1])
def test_file_of_any_size_is_read_whole(tmp_path, size):
    (tmp_path / "b.dcm").write_bytes(CONTENT[:size])
    assert io.BufferedReader(ranged(LocalStore(tmp_path), "b.dcm")).read() == CONTENT[:size]


def test_bytes_of_two_versions_are_never_mixed(store, tmp_path):
    file = ranged(store)
    (tmp_path / "a.dcm").write_bytes(CONTENT[::-1])
    os.utime(tmp_path / "a.dcm", (1, 1))
    file.seek(FIRST_BYTES)
    with pytest.raises(InstanceFileGoneError, match=r"replaced or deleted while it was read, at byte 16,384.*again"):
        file.read(1)


def test_file_that_is_deleted_while_it_is_read_is_gone(store, tmp_path):
    file = ranged(store)
    (tmp_path / "a.dcm").unlink()
    file.seek(FIRST_BYTES)
    with pytest.raises(InstanceFileGoneError):
        file.read(1)


def test_header_longer_than_the_first_bytes_is_read_whole(tmp_path):
    dataset: Dataset = build_dataset(metadata_of())
    block = dataset.private_block(0x0009, "A", create=True)
    for number in range(8):
        block.add_new(number, "UN", os.urandom(FIRST_BYTES))
    dataset.PixelData = bytes(2 * LEAST_BYTES)
    dataset["PixelData"].VR = "OW"
    (tmp_path / "a.dcm").write_bytes(encode(dataset))
    whole = dcmread(tmp_path / "a.dcm", stop_before_pixels=True)
    file = ranged(LocalStore(tmp_path))
    header = dcmread(io.BufferedReader(file), stop_before_pixels=True)
    assert header == whole
    assert len(header) == len(dataset) - 1
    assert file.requests > 1


@pytest.mark.parametrize("path", ["/etc/hostname", "../a.dcm", "AHDS/../../a.dcm"])
def test_path_that_leads_out_of_the_file_system_is_refused(tmp_path, path):
    with pytest.raises(LakeUnavailableError, match="leads out of"):
        FileSystem(Storage(str(tmp_path / "files"))).open(path)


def test_folder_gives_its_own_files(tmp_path, store):
    system = FileSystem(Storage(str(tmp_path)))
    with system.open("a.dcm") as file:
        assert isinstance(file, io.FileIO)
    assert system.url("a.dcm") == str(tmp_path / "a.dcm")
    with pytest.raises(FileNotFoundError):
        system.open("b.dcm")
    with pytest.raises(LakeUnavailableError, match=r"IsADirectoryError.*DICOM_FILE_SYSTEM_URL"):
        system.open(".")


class Account(Storage):
    """An account whose files lie in a folder."""

    opened = 0

    def open_store(self, path):
        type(self).opened += 1
        return LocalStore(self.options()["folder"])


@pytest.fixture
def account(store, tmp_path, monkeypatch) -> FileSystem:
    monkeypatch.setattr(Account, "opened", 0)
    return FileSystem(Account(AZURE, lambda: {"account_name": "account", "folder": str(tmp_path)}))


def test_one_store_serves_all_files(account):
    for _ in range(3):
        assert account.open("a.dcm").read(4) == CONTENT[:4]
    assert Account.opened == 1
    with pytest.raises(FileNotFoundError):
        account.open("b.dcm")


def test_refusal_names_the_role_and_no_secret(account, monkeypatch):
    def refuse(*arguments, **options):
        raise obstore.exceptions.PermissionDeniedError("403 Forbidden for https://a.example/?sig=HIDDEN")

    file = account.open("a.dcm")
    monkeypatch.setattr(obstore, "get", refuse)
    monkeypatch.setattr(obstore, "head", refuse)
    file.seek(FIRST_BYTES)
    for read in (lambda: file.read(1), lambda: account.open("a.dcm")):
        with pytest.raises(
            LakeRefusedError, match=r'/a\.dcm: 403\. Grant the identity the "Storage Blob Data Reader"'
        ) as no:
            read()
        assert "HIDDEN" not in "".join(traceback.format_exception(no.value))
