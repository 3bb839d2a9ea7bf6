"""Lakes in a folder, and rows for them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import LocalStore, ObjectStore

from dicom_assets.core.columns.schema import INSTANCE, STUDY, TABLES, Table
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.core.tables.merge import Desired
from dicom_assets.lake.files import data_file, folder, parquet
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import FixedRows, Written
from dicom_assets_tests.core.tables.rows import build_rows, instance, moment

ALL_TABLES = (*TABLES, HEALTHCARE_INSTANCE)
"""The five, and that of the profile."""


class FarStorage(Storage):
    """A folder that passes for an account."""

    is_local = False

    def address(self, path: str) -> tuple[str, dict[str, str]]:
        return f"{self.url}/{path}", {}

    def open_store(self, path: str) -> ObjectStore:
        return LocalStore(f"{self.url}/{path}", mkdir=True)


def build_lake(folder: Path, *, kind: type[Storage] = Storage, service: str | None = None, **options: int) -> Lake:
    """Return a lake of all tables; `service` is the one whose rows it has, where several share the tables."""
    return Lake(kind(str(folder)), {table.name: table.name for table in ALL_TABLES}, scope=Scope(service), **options)


def study(uid: str, **columns: object) -> dict:
    """A row of `study`."""
    return {
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": uid,
        "lastModifiedTimestamp": moment(0),
        "seriesCount": 1,
        "instanceCount": 1,
    } | columns


def instance_of(study_uid: str, sequence: int = 1, **columns: object) -> dict:
    return instance(sequence, studyInstanceUid=study_uid, seriesInstanceUid=f"{study_uid}.1") | columns


def store(lake: Lake, *rows: dict, table: Table = STUDY) -> Written:
    return lake.write(table, FixedRows(build_rows(list(rows), table), table))


class Wanted:
    """A derivation that says of some keys what their rows are, and of others that there is none."""

    def __init__(self, rows: list[dict], gone: list[dict] = (), table: Table = STUDY) -> None:
        self.table = table
        keys = build_rows([*rows, *gone], table).select(table.merge_columns)
        self.desired = Desired(keys, build_rows(rows, table))
        self.builds = 0

    def build(self) -> Desired:
        self.builds += 1
        return self.desired

    def is_current(self) -> bool:
        return True


def read(lake: Lake, table: Table = STUDY) -> list[dict]:
    """The table's rows by key, without columns that are null."""
    snapshot = lake.open(table)
    assert snapshot is not None
    rows = sorted(snapshot.read_table().to_pylist(), key=lambda row: [row[name] for name in table.key])
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def data_files(lake: Lake, table: Table = STUDY) -> set[str]:
    """Names of the Parquet files in the table's folder, live or not."""
    return {file.name for file in Path(lake.uri(table)).glob("*.parquet*")}


def live_files(lake: Lake, table: Table = STUDY) -> set[str]:
    snapshot = lake.open(table)
    return {file.name for file in snapshot.files} if snapshot else set()


def instances(*rows: dict) -> pa.Table:
    return build_rows(list(rows), INSTANCE)


@contextmanager
def hours_ago(lake: Lake, hours: float) -> Iterator[None]:
    """What is written inside was written so many hours ago: so say the files, and what the log says of them."""
    before = set(Path(lake.storage.url).rglob("*"))
    then = time.time() - hours * 3600
    with pytest.MonkeyPatch.context() as patch:
        for module in (data_file, folder):
            patch.setattr(module, "time", SimpleNamespace(time=lambda: then))
        yield
    for path in set(Path(lake.storage.url).rglob("*")) - before:
        os.utime(path, (then, then))


@contextmanager
def as_before_calendars() -> Iterator[None]:
    """Files that are written inside do not name their calendar, like those of versions before that came."""

    def open_writer(sink, schema, compression_level=None):
        return pq.ParquetWriter(sink, schema, compression="zstd", compression_level=compression_level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "open_writer", open_writer)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
