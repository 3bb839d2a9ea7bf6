"""Why OneLake is refused as storage: what a lake there could not do. A test that fails here is news worth a look."""

import deltalake
import obstore
import pyarrow as pa
import pytest
from deltalake.exceptions import TableNotFoundError
from obstore.exceptions import BaseError

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import LakeRefusedError, SettingsError
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.azure.onelake import ITEM, ITEM_NAME, WORKSPACE, WORKSPACE_NAME, run_onelake
from dicom_assets_tests.lakes.building import read, store, study


@pytest.fixture
def onelake(azurite, container, authority, authority_file):
    with run_onelake(azurite.url, container, authority, authority_file) as url:
        yield url


@pytest.fixture
def open_lake(onelake, client_secret):
    """Give a lake as the settings would open it, if they took OneLake: the stand-in is no host of Fabric's."""

    def open_lake(workspace: str, item: str):
        environment = {"DICOM_STORAGE_URL": onelake, "DICOM_CONTAINER_NAME": workspace, **client_secret}
        return build_lake(load_settings(environment | {"DICOM_STUDY_TABLE_PATH": f"{item}/Tables/study"}))

    return open_lake


def test_with_names_a_table_cannot_even_be_made(open_lake):
    storage = open_lake(WORKSPACE_NAME, ITEM_NAME).storage
    url, options = storage.address(f"{ITEM_NAME}/Tables/trial")
    with pytest.raises(TableNotFoundError):
        deltalake.DeltaTable.create(url, pa.schema([("x", pa.int64())]), storage_options=options)


def test_with_ids_rows_are_written_and_read_and_no_file_is_ever_deleted(open_lake):
    lake = open_lake(WORKSPACE, ITEM)
    store(lake, study("1.2.3", instanceCount=7))
    store(lake, study("1.2.3", instanceCount=8))
    assert len(read(lake)) == 1
    with pytest.raises(LakeRefusedError):
        maintain(lake, STUDY)
    folder = lake.storage.open_store(f"{ITEM}/Files/trial")
    obstore.put(folder, "one", b"1")
    with pytest.raises(BaseError, match="bulk delete"):
        obstore.delete(folder, "one")


def test_deltas_own_library_deletes_nothing_there_either(open_lake):
    storage = open_lake(WORKSPACE, ITEM).storage
    url, options = storage.address(f"{ITEM}/Tables/trial")
    for _ in range(2):
        deltalake.write_deltalake(url, pa.table({"x": [1]}), mode="overwrite", storage_options=options)
    with pytest.raises(OSError, match="bulk delete"):
        deltalake.DeltaTable(url, storage_options=options).vacuum(
            retention_hours=0, dry_run=False, enforce_retention_duration=False
        )


@pytest.mark.parametrize("host", ["onelake.dfs.fabric.microsoft.com", "westeurope-onelake.dfs.fabric.microsoft.com"])
@pytest.mark.parametrize("workspace", [WORKSPACE, WORKSPACE_NAME])
def test_so_the_settings_refuse_it(host, workspace):
    with pytest.raises(SettingsError, match="OneLake"):
        load_settings({"DICOM_STORAGE_URL": f"https://{host}", "DICOM_CONTAINER_NAME": workspace})
