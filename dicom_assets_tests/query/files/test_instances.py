"""DICOM files by UID and by query, of the embedded service's own file system, found in a lake in a folder."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pydicom import dcmread

import dicom_assets
from dicom_assets import iter_instances, open_instance, read_header
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import FILE_INDEX
from dicom_assets.core.errors import (
    InstanceDeletedError,
    InstanceFileGoneError,
    InstanceNotFoundError,
    LakeQueryError,
    LakeUnavailableError,
    SettingsError,
)
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets.derive.derivation import AggregateDerivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets.query.files import instances
from dicom_assets_tests.emulator.conftest import metadata_of, name_in, renamed
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import START, World, hours

UIDS = [f"1.2.{study}.1.{number}" for study in range(3) for number in range(4)]


@dataclass
class Archive:
    """A service with files, a lake of its first hour, and settings that name both."""

    service: Service
    files: Path
    lake: Lake
    env: dict[str, str]

    @property
    def settings(self) -> Settings:
        return load_settings(self.env)

    def materialise(self, file_system: Path | None = None) -> None:
        """Brings the first hour into the lake."""
        World(self.service, self.lake).run_chain(hours(0))
        build = partial(build_file_index, file_system=str(file_system) if file_system else None)
        self.lake.write(FILE_INDEX, AggregateDerivation(FeedWindow(self.lake, hours(0)), FILE_INDEX, build))

    def open(self, uid: str = UIDS[0], **narrower: str) -> instances.InstanceFile:
        return open_instance(uid, settings=self.settings, **narrower)

    def uids(self, query: object, **options: object) -> list[str]:
        """What a query gives, each by its file's own header."""
        found = []
        for file in iter_instances(query, settings=self.settings, **options):
            with file:
                found.append(str(file.read_header().SOPInstanceUID))
                assert found[-1] == file.sop_instance_uid
        return found


@pytest.fixture
def archive(tmp_path) -> Iterator[Archive]:
    instances._archive.cache_clear()
    with Service(file_store=tmp_path / "files") as service, serve(service) as url:
        for number, uid in enumerate(UIDS):
            study = uid.rsplit(".", 2)[0]
            metadata = metadata_of(study, f"{study}.1", uid) | {
                "00080060": {"vr": "CS", "Value": ["CT" if number % 2 else "MR"]},
                "00200013": {"vr": "IS", "Value": [100 - number]},
            }
            service.store_metadata(metadata, at=START + timedelta(seconds=number), write_file=True)
        env = {
            "DICOM_SERVICE_URL": url,
            "DICOM_AUTHENTICATION": "none",
            "DICOM_START_TIME": START.isoformat(),
            "DICOM_STORAGE_URL": str(tmp_path),
            "DICOM_CONTAINER_NAME": "lake",
            "DICOM_FILE_SYSTEM_URL": str(tmp_path / "files"),
        }
        archive = Archive(service, tmp_path / "files", build_lake(tmp_path / "lake"), env)
        archive.materialise()
        yield archive
    instances._archive.cache_clear()


def test_instance_is_opened_by_its_uid(archive):
    with archive.open(UIDS[5]) as file:
        assert file.read(132)[128:] == b"DICM"
        file.seek(0)
        header = dcmread(file)
        assert header.SOPInstanceUID == UIDS[5]
        assert (file.partition_name, file.study_instance_uid) == ("Microsoft.Default", "1.2.1")
        assert file.series_instance_uid == "1.2.1.1"
        assert Path(file.url).is_file()
        assert UIDS[5] not in repr(file)


def test_header_is_read_by_uid_with_the_environments_settings(archive, monkeypatch):
    for name, value in archive.env.items():
        monkeypatch.setenv(name, value)
    assert read_header(UIDS[3]).SOPInstanceUID == UIDS[3]


def test_study_series_and_partition_narrow(archive):
    right = {"study_instance_uid": "1.2.0", "series_instance_uid": "1.2.0.1", "partition_name": "Microsoft.Default"}
    archive.open(**right).close()
    for name in right:
        with pytest.raises(InstanceNotFoundError, match="No such instance in file_index"):
            archive.open(**{**right, name: "9"})


def test_uid_in_two_partitions_needs_the_partition(archive):
    again = metadata_of("1.2.0", "1.2.0.1", UIDS[0])
    archive.service.store_metadata(again, partition="other", at=START + timedelta(minutes=1), write_file=True)
    archive.materialise()
    with pytest.raises(InstanceNotFoundError, match=r"2 instances .*sequences \d+, \d+.*Name the partition") as caught:
        archive.open()
    assert UIDS[0] not in str(caught.value)
    with archive.open(partition_name="other") as file:
        assert "/other/" in file.url


def test_unknown_instance_and_missing_table_are_told_without_the_uid(archive):
    with pytest.raises(InstanceNotFoundError, match="may not be materialised yet") as caught:
        archive.open("1.2.3.99")
    assert "1.2.3.99" not in str(caught.value)
    archive.env["DICOM_CONTAINER_NAME"] = "elsewhere"
    with pytest.raises(InstanceNotFoundError, match=r"There is no table file_index at .*elsewhere"):
        archive.open()
    assert not (Path(archive.env["DICOM_STORAGE_URL"]) / "elsewhere").exists()


def test_file_url_of_the_table_serves_where_no_file_system_is_set(archive):
    del archive.env["DICOM_FILE_SYSTEM_URL"]
    archive.materialise(archive.files)
    archive.open().close()
    archive.materialise(None)
    with pytest.raises(SettingsError, match="DICOM_FILE_SYSTEM_URL is not set"):
        archive.open()


def replace_all(archive: Archive, study: str = "1.2.0") -> None:
    """Two updates: the service keeps the first and the newest version, and the lake knows the one in between."""
    archive.service.update(study, renamed("Roe^Jo"), at=START + timedelta(minutes=1))
    archive.materialise()
    archive.service.update(study, renamed("Poe^Jo"), at=START + timedelta(hours=1))


def test_replaced_file_is_found_with_one_request_to_the_service(archive):
    replace_all(archive)
    before = archive.lake.version(FILE_INDEX)
    with archive.open(UIDS[2]) as file:  # of a study whose instances all changed at the same time
        assert str(file.read_header().PatientName) == "Poe^Jo"
        assert file.read_header().SOPInstanceUID == UIDS[2]
        assert name_in(archive.service.change_feed(limit=1)[0]) == "Poe^Jo"
    assert instances._archive(archive.settings)._client.statistics.pages == 1
    assert archive.lake.version(FILE_INDEX) == before


def test_newer_version_of_the_table_is_asked_before_the_service(archive):
    replace_all(archive)
    files = iter_instances("studyInstanceUid = '1.2.0'", read_ahead=1, settings=archive.settings)
    with next(files):
        World(archive.service, archive.lake).run_chain(hours(1))
    archive.env["DICOM_SERVICE_URL"] = "http://127.0.0.1:1"
    old = instances._archive(archive.settings)
    row = {**next(old._find(keys_of(UIDS[0]))), "filePath": "AHDS/nowhere.dcm", "version": 0}
    with old._open(row) as file:
        assert str(file.read_header().PatientName) == "Poe^Jo"
    World(archive.service, archive.lake).service.delete("1.2.0", at=START + timedelta(hours=2))
    World(archive.service, archive.lake).run_chain(hours(2))
    with pytest.raises(InstanceDeletedError, match="newest version of file_index has no such instance"):
        old._open(row)
    files.close()


def keys_of(uid: str):
    import pyarrow as pa

    return pa.table({"sopInstanceUid": [uid]})


def test_deleted_instance_is_gone(archive):
    archive.service.delete("1.2.0", at=START + timedelta(hours=1))
    with pytest.raises(InstanceDeletedError, match=r"of sequence \d+ .*service has deleted it") as caught:
        archive.open()
    assert UIDS[0] not in str(caught.value)


def test_vanished_file_that_the_service_still_names_is_gone(archive):
    for file in archive.files.rglob("*.dcm"):
        file.unlink()
    with pytest.raises(InstanceFileGoneError, match="Check that DICOM_FILE_SYSTEM_URL is its file system"):
        archive.open()


@pytest.mark.parametrize(
    ("url", "told"),
    [(None, "DICOM_SERVICE_URL is not set"), ("http://127.0.0.1:1", "could not be asked where it is now.*3 times")],
)
def test_vanished_file_without_a_service_to_ask_is_gone(archive, url, told, monkeypatch):
    monkeypatch.setattr(instances, "_RETRY", instances.RetryPolicy(tries=3, first_wait_seconds=0))
    archive.service.delete("1.2.0")
    if url is None:
        del archive.env["DICOM_SERVICE_URL"]
    else:
        archive.env["DICOM_SERVICE_URL"] = url
    with pytest.raises(InstanceFileGoneError, match=told):
        archive.open()


def test_service_that_knows_no_such_change_is_another_service(archive, tmp_path):
    for file in archive.files.rglob("*.dcm"):
        file.unlink()
    with Service() as other, serve(other) as url:
        archive.env["DICOM_SERVICE_URL"] = url
        with pytest.raises(InstanceFileGoneError, match="is this the service of the lake"):
            archive.open()


def test_where_text_chooses_instances(archive):
    assert set(archive.uids("modality = 'CT' -- and nothing else")) == set(UIDS[1::2])
    assert archive.uids("modality = 'none'") == []
    in_study = "studyInstanceUid IN (SELECT studyInstanceUid FROM study WHERE studyInstanceUid = '1.2.1')"
    assert set(archive.uids(in_study)) == set(UIDS[4:8])


@pytest.mark.parametrize("read_ahead", [1, 3, 100])
def test_whole_query_gives_the_order(archive, read_ahead, monkeypatch):
    monkeypatch.setattr(instances, "_ROWS_PER_LOOKUP", 5)
    query = "select sopInstanceUid from instance order by instanceNumber"
    assert archive.uids(query, read_ahead=read_ahead) == UIDS[::-1]
    with_key = "WITH x AS (SELECT * FROM file_index) SELECT * FROM x ORDER BY sopInstanceUid DESC LIMIT 2"
    assert archive.uids(with_key) == sorted(UIDS)[:-3:-1]


def test_expression_chooses_instances(archive):
    assert set(archive.uids((pc.field("modality") == "MR") & (pc.field("instanceNumber") > 96))) == {UIDS[0], UIDS[2]}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT modality FROM instance", "gives no column sopInstanceUid"),
        ("SELECT NULL AS sopInstanceUid FROM instance", "IS NOT NULL"),
        ("sopinstanceuid = '1' AND patientName = 'Doe^Jo'", "no column sopinstanceuid.* Did you mean sopInstanceUid"),
        ("SELECT * FROM nowhere", "nowhere.*Tables are change_feed, instance"),
        ("1 = 1); COPY instance TO '/tmp/x.csv'; SELECT (1", "more than one statement"),
        ("SELECT sopInstanceUid FROM instance WHERE patientName = 'Doe^Jo", "a quote is opened here"),
        ('patientName = "Doe^Jo"', "no such column in instance"),
        (pc.field("nope") == 1, "does not fit the columns"),
    ],
)
def test_query_that_cannot_be_answered_is_explained_without_its_values(archive, query, told):
    with pytest.raises(LakeQueryError, match=told) as caught:
        archive.uids(query)
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_query_of_a_lake_without_tables_gives_nothing_or_an_error(archive):
    archive.env["DICOM_CONTAINER_NAME"] = "elsewhere"
    assert archive.uids(pc.field("modality") == "MR") == []
    with pytest.raises(LakeQueryError, match="Materialise the asset instance"):
        archive.uids("modality = 'MR'")


def test_missing_files_end_the_iteration_or_are_skipped(archive):
    archive.service.delete("1.2.1", at=START + timedelta(hours=1))
    query = "SELECT sopInstanceUid FROM instance ORDER BY instanceNumber DESC"
    assert archive.uids(query, missing="skip") == [*UIDS[:4], *UIDS[8:]]
    with pytest.raises(InstanceFileGoneError):
        archive.uids(query)
    named = "SELECT '1.2.3.99' AS sopInstanceUid"
    assert archive.uids(named, missing="skip") == []
    with pytest.raises(InstanceNotFoundError):
        archive.uids(named)


def test_no_more_files_are_opened_ahead_than_allowed(archive, monkeypatch):
    opened: list[str] = []
    closed: list[str] = []

    class Counted(instances.InstanceFile):
        def __init__(self, raw, row, url):
            super().__init__(raw, row, url)
            opened.append(url)

        def close(self):
            if not self.closed:
                closed.append(self.url)
            super().close()

    monkeypatch.setattr(instances, "InstanceFile", Counted)
    files = iter_instances("SELECT * FROM file_index", read_ahead=3, settings=archive.settings)
    assert opened == []
    next(files).close()
    next(files).close()
    files.close()
    assert len(opened) <= 4
    assert sorted(opened) == sorted(closed)


def test_read_ahead_of_nothing_is_refused(archive):
    with pytest.raises(ValueError, match="at least 1"):
        iter_instances("1 = 1", read_ahead=0)


def test_folder_that_cannot_be_read_is_told(archive, tmp_path):
    (tmp_path / "file").write_text("")
    archive.env["DICOM_FILE_SYSTEM_URL"] = str(tmp_path / "file")
    with pytest.raises(LakeUnavailableError, match="NotADirectoryError"):
        archive.open()


def test_public_names_come_without_dagster():
    code = (
        "import sys, dicom_assets; assert 'deltalake' not in sys.modules; dicom_assets.open_instance; "
        "assert 'dagster' not in sys.modules and 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    files = {"InstanceFile", "iter_instances", "open_instance", "read_header"}
    definitions = {"DicomLakeComponent", "DicomTablesComponent", "LakeSettings", "asset_specs", "build_defs"}
    others = {"TableChanges", "changes", "lake_io_manager", "load_service"}
    assert set(dicom_assets.__all__) == files | definitions | others
    assert all(getattr(dicom_assets, name).__name__ == name for name in dicom_assets.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dicom_assets.nothing  # noqa: B018
