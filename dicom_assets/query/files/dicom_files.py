"""DICOM files in a folder or in Data Lake Storage, as raw file objects that fetch only the bytes that are read.

A reader of a header needs some kilobytes of a file of many megabytes, and cannot know beforehand how many. So the first
request fetches the first bytes, the file's size and its ETag. Later bytes are fetched when they are read, in ever
larger pieces, and only while the file is unchanged.
"""

import io
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import ObjectStore

from dicom_assets.core.errors import InstanceFileGoneError, LakeRefusedError, LakeUnavailableError
from dicom_assets.lake.storage.errors import FILES
from dicom_assets.lake.storage.range_file import RangeFile
from dicom_assets.lake.storage.storage import Storage

FIRST_BYTES = 16 * 2**10
"""Size of the first request; it covers the header of most files."""
LEAST_BYTES = 64 * 2**10
MOST_BYTES = 4 * 2**20
"""Greatest size of a piece behind the first bytes. The first piece has `LEAST_BYTES`, each next piece twice as many."""


class FileSystem:
    """File system of DICOM files; may be used by many threads."""

    def __init__(self, storage: Storage) -> None:
        """Create a file system.

        Args:
            storage: a folder, or a file system of a storage account.
        """
        self._storage = storage
        self._lock = threading.Lock()
        self._opened: ObjectStore | None = None

    def url(self, path: str) -> str:
        """Return the full location of a file."""
        return self._storage.uri(path)

    def open(self, path: str) -> io.RawIOBase:
        """Open a file; from an account, this fetches the file's first bytes.

        Raises:
            FileNotFoundError: the file does not exist.
            LakeUnavailableError: storage refuses, or the path leads out of the file system.
        """
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise LakeUnavailableError(
                f"The path {path!r} leads out of {self._storage.url}, so it was not opened. Paths of the service do "
                "not: check what wrote it into the tables."
            )
        try:
            if self._storage.is_local:
                return io.FileIO(Path(self._storage.url) / path)
            return DicomFile(self._store(), path, lambda error: self._refused(path, error))
        except FileNotFoundError:
            raise
        except (OSError, BaseError) as error:
            raise self._refused(path, error) from None

    def _store(self) -> ObjectStore:
        """Return the store of all files; it reuses connections, and signs in anew when needed."""
        with self._lock:
            if self._opened is None:
                self._opened = self._storage.open_store("")
            return self._opened

    def _refused(self, path: str, error: Exception) -> LakeUnavailableError:
        """Return the error for a refusal; with its kind and code only, since the native error may hold requests."""
        doing = f"Could not read the DICOM file {self.url(path)}"
        if self._storage.is_local:
            return LakeUnavailableError(
                f"{doing}: {type(error).__name__}. Check DICOM_FILE_SYSTEM_URL, and that this user may read the folder."
            )
        refusal = self._storage.explain(error, FILES)
        kind = LakeRefusedError if refusal.is_final else LakeUnavailableError
        return kind(f"{doing}: {refusal.reason}. {refusal.advice}")


class DicomFile(RangeFile):
    """A DICOM file of a store, read ahead. All bytes that are read belong to the version that was opened.

    Args:
        store: the file's store.
        path: the file's path in the store.
        explain: returns the error to raise for a later refusal.

    Raises:
        FileNotFoundError: the file does not exist.
        obstore.exceptions.BaseError: storage refuses.
    """

    def __init__(self, store: ObjectStore, path: str, explain: Callable[[Exception], LakeUnavailableError]) -> None:
        self._explain = explain
        self.name = path
        """Name of the file, as other file objects have it; pydicom reads this attribute."""
        self._start = 0
        self._piece_bytes = LEAST_BYTES
        self.requests = 1
        """Number of requests sent so far."""
        try:
            answer = obstore.get(store, path, options={"range": (0, FIRST_BYTES)})
            size_bytes, self._etag = answer.meta["size"], answer.meta["e_tag"]
            self._bytes = memoryview(answer.bytes().to_bytes())
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
            raise  # this error has the reason, which the answer to a HEAD lacks
        except BaseError:
            if obstore.head(store, path)["size"]:  # storage refuses a range of an empty file
                raise
            size_bytes, self._etag, self._bytes = 0, None, memoryview(b"")
        super().__init__(store, path, size_bytes)

    def fetch(self, wanted: int) -> memoryview:
        """Return the next bytes that are in memory; if there are none, get more with one request.

        Raises:
            InstanceFileGoneError: the file was replaced or deleted since it was opened.
            LakeUnavailableError: storage refuses.
        """
        if not self._start <= self._position < self._start + len(self._bytes):
            self._read_ahead(wanted)
        offset = self._position - self._start
        return self._bytes[offset : offset + wanted]

    def _read_ahead(self, wanted: int) -> None:
        start = self._position
        end = min(self._size, start + max(wanted, self._piece_bytes))
        self._piece_bytes = min(2 * self._piece_bytes, MOST_BYTES)
        self.requests += 1
        try:
            answer = obstore.get(self._store, self._path, options={"range": (start, end), "if_match": self._etag})
            self._bytes, self._start = memoryview(answer.bytes().to_bytes()), start
        except (FileNotFoundError, PreconditionError):
            raise InstanceFileGoneError(
                f"The file {self._path} was replaced or deleted while it was read, at byte {start:,}: the service "
                "keeps an instance's newest version alone. Open the instance again."
            ) from None
        except (OSError, BaseError) as error:
            raise self._explain(error) from None
