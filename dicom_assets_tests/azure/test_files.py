"""DICOM files by UID in an account of Azurite: read in ranges, replaced, refused."""

import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore
from pydicom import dcmread

from dicom_assets import InstanceFile, iter_instances, open_instance
from dicom_assets.config.connections import build_lake, build_storage
from dicom_assets.config.settings import load_settings
from dicom_assets.core.errors import InstanceFileGoneError, LakeRefusedError
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets.emulator.store.store import Service
from dicom_assets.query.files import instances
from dicom_assets.query.files.dicom_files import FIRST_BYTES, LEAST_BYTES, FileSystem
from dicom_assets_tests.azure.test_refusals import MARKER, refusing, signature, with_sas
from dicom_assets_tests.azure.token_server import OUTLIVED_AFTER_SECONDS, SECRET, SHORT_LIFE_SECONDS
from dicom_assets_tests.emulator.conftest import metadata_of, renamed
from dicom_assets_tests.law.world import START, World, hours

UIDS = ["1.2.1.1", "1.2.1.2"]


@dataclass
class Archive:
    """A service whose files lie in Azurite, a lake of its first hour beside them, and settings that name both."""

    service: Service
    folder: Path
    """Where the service writes files; `upload` brings them to where it says that they are."""
    store: ObjectStore
    environment: dict[str, str]

    def upload(self) -> None:
        """Makes the container hold what the folder holds."""
        obstore.delete(self.store, [file["path"] for file in obstore.list(self.store).collect()])
        for file in self.folder.rglob("*.dcm"):
            obstore.put(self.store, file.relative_to(self.folder).as_posix(), file.read_bytes())

    def open(self, uid: str = UIDS[0], **environment: str) -> InstanceFile:
        return open_instance(uid, settings=load_settings(self.environment | environment))


@pytest.fixture
def archive(azurite, signing, lake_settings, container, tmp_path) -> Iterator[Archive]:
    files = azurite.create_container(f"{container}-files")
    where = {"DICOM_FILE_SYSTEM_URL": f"abfss://{files}@{azurite.account}.dfs.core.windows.net"}
    settings = load_settings(signing | lake_settings | where)
    with Service(file_store=tmp_path) as service, serve(service) as url:
        for second, uid in enumerate(UIDS):
            dataset = build_dataset(metadata_of("1.2", "1.2.1", uid))
            # A header that the first request does not bring, and pixels that nobody asks for.
            dataset.private_block(0x0009, "TEST", create=True).add_new(1, "UN", os.urandom(2 * FIRST_BYTES))
            dataset.add_new(0x7FE00010, "OW", bytes(4 * LEAST_BYTES))
            service.store(dataset, at=START + timedelta(seconds=second), content=encode(dataset))
        world = World(service, build_lake(settings))
        for name in ("change_feed", "instance", "file_index"):
            world.run(name, hours(0))
        service_settings = {"DICOM_SERVICE_URL": url, "DICOM_START_TIME": START.isoformat()}
        archive = Archive(
            service,
            tmp_path,
            build_storage(settings, str(settings.file_system_url)).open_store(""),
            signing | lake_settings | where | service_settings,
        )
        archive.upload()
        yield archive
    instances._archive.cache_clear()


def test_headers_are_read_whole_and_pixels_not_at_all(archive):
    stored = {header.SOPInstanceUID: header for header in map(dcmread, archive.folder.rglob("*.dcm"))}
    settings = load_settings(archive.environment)
    found = []
    for file in iter_instances("SELECT * FROM file_index ORDER BY sopInstanceUid", settings=settings):
        with file:
            header = file.read_header()
            del stored[header.SOPInstanceUID].PixelData
            assert header == stored[header.SOPInstanceUID]
            assert file.raw.requests == 2
            found.append(header.SOPInstanceUID)
    assert found == UIDS


def test_replaced_file_is_found_by_asking_the_service_once(archive):
    archive.open().close()
    archive.service.update("1.2", renamed("Roe^Jo"), at=START + timedelta(minutes=1))
    world = World(archive.service, build_lake(load_settings(archive.environment)))
    for name in ("change_feed", "instance", "file_index"):
        world.run(name, hours(0))
    archive.service.update("1.2", renamed("Poe^Jo"), at=START + timedelta(hours=1))
    archive.upload()
    with archive.open() as file:
        assert file.read_header().PatientName == "Poe^Jo"
    client = instances._archive(load_settings(archive.environment))._client
    assert client.statistics.pages == 1


@pytest.mark.parametrize("signing", ["account_key"], indirect=True)
def test_file_that_changes_while_it_is_read_is_gone(archive):
    with archive.open() as file:
        for stored in archive.folder.rglob("*.dcm"):
            stored.write_bytes(stored.read_bytes()[::-1])
        archive.upload()
        file.seek(FIRST_BYTES)
        with pytest.raises(InstanceFileGoneError, match="replaced or deleted while it was read"):
            file.read(1)


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_open_file_outlives_its_first_token(archive, entra):
    entra.life_seconds = SHORT_LIFE_SECONDS
    with archive.open() as file:
        time.sleep(OUTLIVED_AFTER_SECONDS)
        file.seek(FIRST_BYTES)
        assert len(file.read(1)) == 1


def refusal(environment: dict[str, str]) -> str:
    """What a person reads who may not read the files."""
    settings = load_settings(environment)
    with pytest.raises(LakeRefusedError) as caught:
        FileSystem(build_storage(settings, settings.lake_url)).open("AHDS/a.dcm")
    told = "".join(traceback.format_exception(caught.value))
    for secret in (MARKER, SECRET, "sig="):
        assert secret not in told
    return str(caught.value)


def test_expired_sas_token_is_told_and_not_shown(azurite, lake_settings):
    token = azurite.sas_token(until="2026-01-01T00:00:00Z")
    message = refusal(with_sas(lake_settings, token))
    assert "/AHDS/a.dcm: 403 AuthorizationFailure. AZURE_STORAGE_SAS_TOKEN has expired" in message
    assert signature(token) not in message


def test_identity_that_may_not_read_the_files_is_told_the_role(client_secret):
    with refusing(403, "AuthorizationPermissionMismatch") as url:
        message = refusal(client_secret | {"DICOM_STORAGE_URL": url})
    assert '403 AuthorizationPermissionMismatch. Grant the identity the "Storage Blob Data Reader" role' in message
