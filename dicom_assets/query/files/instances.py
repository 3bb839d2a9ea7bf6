"""DICOM files by SOP instance UID or by query, as file objects over Data Lake Storage or a folder.

`file_index` has the path of every file. The service may have replaced or deleted the file after the table was written.
If the file is not at its path, the newest version of `file_index` is read, and then the service is asked. The change
feed's entry of the instance's last known change gives the path of the file that is current at the moment of reading.
"""

import io
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from dicom_assets.config.connections import build_lake, build_storage, open_client
from dicom_assets.config.services import load_service
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.elements import trim_padding
from dicom_assets.core.columns.schema import FILE_INDEX, KEY
from dicom_assets.core.errors import (
    InstanceDeletedError,
    InstanceFileGoneError,
    InstanceNotFoundError,
    ServiceError,
    SettingsError,
)
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.query.files.dicom_files import FileSystem
from dicom_assets.query.files.file_lookup import find_files
from dicom_assets.query.sql.lake_query import Query, query_instances
from dicom_assets.service.client import DicomService

if TYPE_CHECKING:
    from pydicom import FileDataset

READ_AHEAD = 32
"""Default number of files that are opened ahead of the caller."""
_ROWS_PER_LOOKUP = 2000
_RETRY = RetryPolicy(tries=3)  # few, because a caller waits
_Row = Mapping[str, Any]


class InstanceFile(io.BufferedReader):
    """DICOM file of one instance: a binary file object that can be read, sought in and closed.

    From Data Lake Storage, only the parts that are read are fetched.
    """

    def __init__(self, raw: io.RawIOBase, row: _Row, url: str) -> None:
        super().__init__(raw, 2**14)
        self.partition_name: str = row["partitionName"]
        self.study_instance_uid: str = row["studyInstanceUid"]
        self.series_instance_uid: str = row["seriesInstanceUid"]
        self.sop_instance_uid: str = row["sopInstanceUid"]
        self.url = url
        """URL of the file."""

    def __repr__(self) -> str:
        return f"InstanceFile({self.url!r})"

    def read_header(self) -> "FileDataset":
        """Read the data set up to the pixel data, with pydicom (installed by the extra `emulator`).

        pydicom reads from this file object, which gives every byte that pydicom asks for. From a prefix of the file,
        pydicom would silently return a shorter data set.
        """
        try:
            from pydicom import dcmread
        except ImportError as error:
            raise ImportError("read_header needs pydicom: pip install 'dicom-assets[emulator]'.") from error

        self.seek(0)
        return dcmread(self, stop_before_pixels=True)


class Archive:
    """DICOM files of a lake's instances; safe for use by many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lake = build_lake(settings)
        self._file_systems = lru_cache(8)(lambda prefix: FileSystem(build_storage(settings, prefix)))
        self._lock = threading.Lock()
        self._client: DicomService | None = None

    def open(self, sop_instance_uid: str, **narrower: str | None) -> InstanceFile:
        """Open the file of one instance; see `open_instance`."""
        key = {"sopInstanceUid": sop_instance_uid, **{name: uid for name, uid in narrower.items() if uid is not None}}
        (row,) = self._find(pa.table({name: [value] for name, value in key.items()}))
        return self._open(row)

    def iterate(self, query: Query, *, read_ahead: int, missing: Literal["raise", "skip"]) -> Iterator[InstanceFile]:
        """Yield the files of the instances that a query gives; see `iter_instances`."""
        ahead: deque[Future[InstanceFile]] = deque()
        with ThreadPoolExecutor(read_ahead) as pool:
            try:
                for row in self._rows(query):
                    ahead.append(pool.submit(self._open, row))
                    if len(ahead) >= read_ahead:
                        yield from _result(ahead.popleft(), missing)
                while ahead:
                    yield from _result(ahead.popleft(), missing)
            finally:
                for future in ahead:
                    if not future.cancel():
                        with suppress(Exception):
                            future.result().close()

    def _rows(self, query: Query) -> Iterator["_Row | InstanceNotFoundError"]:
        keys = query_instances(self._lake, query)
        for start in range(0, len(keys), _ROWS_PER_LOOKUP):
            yield from self._find(keys.slice(start, _ROWS_PER_LOOKUP))

    def _find(self, keys: pa.Table) -> Iterator["_Row | InstanceNotFoundError"]:
        """Yield for each key its row of `file_index`, or the error that explains why there is no single row."""
        where = self._lake.uri(FILE_INDEX)
        keys = pa.table([trim_padding(column) for column in keys.itercolumns()], keys.column_names)
        lookup = find_files(self._lake, keys)
        if lookup is None:
            raise InstanceNotFoundError(
                f"There is no table file_index at {where}, so nobody knows where files lie. Materialise it; if it lies "
                "elsewhere, set DICOM_STORAGE_URL, DICOM_CONTAINER_NAME and DICOM_FILE_INDEX_TABLE_PATH."
            )
        names = keys.column_names
        found = defaultdict(list)
        for row in lookup.rows.to_pylist():
            found[tuple(row[name] for name in names)].append({**row, "version": lookup.version})
        for key in keys.to_pylist():
            rows = found[tuple(key.values())]
            if len(rows) == 1:
                yield rows[0]
            elif not rows:
                yield InstanceNotFoundError(
                    f"No such instance in file_index at {where}, version {lookup.version} (searched by "
                    f"{', '.join(names)}). Its hour may not be materialised yet, or it was deleted, or the service "
                    "keeps no file of it."
                )
            else:
                sequences = ", ".join(str(row["sequence"]) for row in sorted(rows, key=lambda row: row["sequence"]))
                yield InstanceNotFoundError(
                    f"{len(rows)} instances in file_index at {where} have that {', '.join(names)} (sequences "
                    f"{sequences}): a UID may be in several data partitions. Name the partition too, or the study and "
                    "series."
                )

    def _open(self, row: "_Row | InstanceNotFoundError") -> InstanceFile:
        if isinstance(row, InstanceNotFoundError):
            raise row
        with suppress(FileNotFoundError):
            return self._open_at(row, row["filePath"])
        tried = [row["filePath"]]
        newest = self._newest(row)
        if newest is not None and newest["filePath"] not in tried:
            with suppress(FileNotFoundError):
                return self._open_at(newest, newest["filePath"])
            tried.append(newest["filePath"])
        path = self._ask_service(newest or row)
        if path not in tried:
            with suppress(FileNotFoundError):
                return self._open_at(newest or row, path)
        raise _gone(
            row, "the service says that this is its place still. Check that DICOM_FILE_SYSTEM_URL is its file system"
        )

    def _newest(self, row: _Row) -> _Row | None:
        """Return the instance's row in a newer version of `file_index`; None if there is no newer version.

        Raises:
            InstanceDeletedError: the newer version has no row of the instance.
        """
        if self._lake.has_version(FILE_INDEX, row["version"]):
            return None
        (newest,) = self._find(pa.table({column.name: [row[column.name]] for column in KEY}))
        if isinstance(newest, InstanceNotFoundError):
            raise InstanceDeletedError(
                _gone_text(row, "the newest version of file_index has no such instance: it was deleted meanwhile")
            )
        return newest

    def _ask_service(self, row: _Row) -> str:
        """Return the path at which the service keeps the instance's file now.

        One entry of the change feed has this path, as of the moment of reading.

        Raises:
            InstanceDeletedError: the service has deleted the file.
            InstanceFileGoneError: the service cannot be asked, or does not know the change.
        """
        if self._settings.service_url is None:
            raise _gone(row, "DICOM_SERVICE_URL is not set, so the service could not be asked where it is now")
        window = Window.of_moment(row["lastModifiedTimestamp"])
        try:
            pages = self._open_client().fetch_pages(window, include_metadata=False)
            entry = next((entry for page in pages for entry in page if entry.sequence == row["sequence"]), None)
        except ServiceError as error:
            raise _gone(row, f"the service could not be asked where it is now. {error}") from error
        if entry is None:
            raise _gone(row, "the service's change feed has no such change any more: is this the service of the lake?")
        if entry.state.lower() == "deleted" or entry.file_path is None:
            raise InstanceDeletedError(
                _gone_text(row, "the service has deleted it. The tables follow when that hour is materialised")
            )
        return entry.file_path

    def _open_client(self) -> DicomService:
        """Return the archive's only client of the service, which is closed when the archive is garbage-collected."""
        with self._lock:
            if self._client is None:
                self._client = open_client(self._settings, retry=_RETRY)
                weakref.finalize(self, self._client.close)
            return self._client

    def _open_at(self, row: _Row, path: str) -> InstanceFile:
        system = self._file_system(row)
        return InstanceFile(system.open(path), row, system.url(path))

    def _file_system(self, row: _Row) -> FileSystem:
        """Return the file system of a file: from the settings, or, if they name none, from the row's `fileUrl`."""
        prefix = self._settings.file_url_prefix
        if prefix is None and row["fileUrl"] is not None:
            prefix = row["fileUrl"].removesuffix(f"/{row['filePath']}")
        if prefix is None:
            raise SettingsError(
                "DICOM_FILE_SYSTEM_URL is not set, and file_index was written without it, so it is not known where the "
                "service keeps its DICOM files. Set it, such as https://ACCOUNT.dfs.core.windows.net/FILESYSTEM."
            )
        return self._file_systems(prefix)


def _result(future: Future[InstanceFile], missing: str) -> Generator[InstanceFile, None, None]:
    try:
        file = future.result()
    except (InstanceNotFoundError, InstanceFileGoneError):
        if missing == "raise":
            raise
        return
    yield file


def _gone(row: _Row, why: str) -> InstanceFileGoneError:
    return InstanceFileGoneError(_gone_text(row, why))


def _gone_text(row: _Row, why: str) -> str:
    return (
        f"The file {row['filePath']} of sequence {row['sequence']} (file_index, version {row['version']}) is gone, and "
        f"{why.rstrip('.')}."
    )


@lru_cache(4)
def _archive(settings: Settings) -> Archive:
    return Archive(settings)


def open_instance(
    sop_instance_uid: str,
    *,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    partition_name: str | None = None,
    settings: Settings | None = None,
) -> InstanceFile:
    """Open the DICOM file of an instance.

    Args:
        sop_instance_uid: UID of the instance.
        study_instance_uid: UID of the instance's study. With this UID, one or two files of `file_index` are read;
            without it, many.
        series_instance_uid: UID of the instance's series.
        partition_name: data partition of the instance, if the service has several.
        settings: settings; by default read from the environment.

    Returns:
        A binary file object, which the caller must close.

    Raises:
        InstanceNotFoundError: `file_index` has no such instance, or several.
        InstanceFileGoneError: the file is neither at the path in `file_index` nor at the current path in the service.
        LakeUnavailableError: storage refuses the request.
        SettingsError: the settings and `file_index` do not name the file system of the files.
    """
    return _archive(settings or load_service()).open(
        sop_instance_uid,
        studyInstanceUid=study_instance_uid,
        seriesInstanceUid=series_instance_uid,
        partitionName=partition_name,
    )


def iter_instances(
    query: Query,
    *,
    read_ahead: int = READ_AHEAD,
    missing: Literal["raise", "skip"] = "raise",
    settings: Settings | None = None,
) -> Iterator[InstanceFile]:
    """Return an iterator over the DICOM files of the instances that a query gives, in the order of the query.

    The caller must close each file.

    Args:
        query: one of three forms: an SQL condition (the part after WHERE) over the columns of `instance`, such as
            `modality = 'CT'`; a whole SELECT over the five tables that gives `sopInstanceUid`, and preferably the rest
            of the key; or a pyarrow filter expression over the columns of `instance`.
        read_ahead: number of files that are opened, in parallel, before the caller asks for them.
        missing: handling of an instance without a file: `raise` ends the iteration with the error, `skip` continues
            with the next instance.
        settings: settings; by default read from the environment.

    Raises:
        ValueError: `read_ahead` is less than 1.
        LakeQueryError: the query is not valid.
        DicomAssetsError: the errors of `open_instance`.
    """
    if read_ahead < 1:
        raise ValueError("read_ahead is at least 1")
    return _archive(settings or load_service()).iterate(query, read_ahead=read_ahead, missing=missing)


def read_header(
    sop_instance_uid: str,
    *,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    partition_name: str | None = None,
    settings: Settings | None = None,
) -> "FileDataset":
    """Read the data set of an instance up to the pixel data; see `open_instance` for arguments and errors."""
    with open_instance(
        sop_instance_uid,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        partition_name=partition_name,
        settings=settings,
    ) as file:
        return file.read_header()
