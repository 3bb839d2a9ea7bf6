"""Cache of a table's newest version: opening a table reads its log, and one run asks for the newest version often.

A look asks the log two questions. Is the cached commit still the same file? After a table was created anew, or restored
from a backup, its log has another file at that version, or none. Is there a later commit? If not, the cached version is
the newest; if so, delta-rs reads on from the cached version. After any other answer the table is opened from scratch.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.decoded import Decoded
from dicom_assets.lake.table.features import explain_unknown
from dicom_assets.lake.table.parquet import Files
from dicom_assets.lake.table.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.table.snapshot import Logged

KEPT_SECONDS = 3600
"""Age in seconds after which a cached version is not trusted, and the table is opened again. No commit is cleaned from
a log so soon after it was made: within this time a commit that is missing was never made."""


@dataclass(frozen=True)
class _Kept:
    delta: DeltaTable
    options: dict[str, str]
    """Storage options that delta-rs was given; a token among them expires."""
    logged: Logged
    looked_at: float


class Newest:
    """Cache of one table's newest version; may be used by many threads.

    A `DeltaTable` can move on to other versions, so it has exactly one holder: this cache, or the caller that took it.
    """

    def __init__(self, storage: Storage, path: str, decoded: Decoded, scope: Scope = WHOLE_TABLE) -> None:
        """Create an empty cache.

        Args:
            storage: storage of the lake.
            path: folder of the table.
            decoded: cache of decoded attributes of the table's files.
            scope: rows of the table to see.
        """
        self._storage = storage
        self._path = path
        self._decoded = decoded
        self._scope = scope
        self._last: Logged | None = None
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._folder: tuple[Storage, Files] | None = None

    @property
    def folder(self) -> Files:
        """Files in the table's folder."""
        if self._folder is None or self._folder[0] is not self._storage:
            self._folder = self._storage, Files(self._storage, self._path, self._decoded, self._scope)
        return self._folder[1]

    def look(self) -> Logged:
        """Return the version that is the newest at this moment.

        Raises:
            TableNotFoundError: the table does not exist.
            LakeUnavailableError: storage refuses.
        """
        with self._lock:
            kept, self._kept = self._kept, None
            return (kept and self._look_again(kept)) or self._keep(*self.open())

    def take(self, logged: Logged) -> tuple[DeltaTable, dict[str, str]]:
        """Return a version as a `DeltaTable` that the caller alone holds, and storage options that are valid now.

        Args:
            logged: a version that `look` returned.

        Raises:
            LakeUnavailableError: storage refuses, or the table was created anew meanwhile.
        """
        with self._lock:
            kept = self._kept
            if kept is not None and kept.logged is logged and self._is_signed_in(kept):
                self._kept = None
                return kept.delta, kept.options
        delta, options = self.open(logged.version)
        if str(delta.metadata().id) != logged.table_id:
            raise self._created_anew()
        return delta, options

    def check_is_there(self, logged: Logged) -> None:
        """Check that the commit of a version is still in the log, unchanged.

        Args:
            logged: a version that `look` returned.

        Raises:
            LakeUnavailableError: the commit is absent or differs: the table was created anew, or restored from a
                backup.
        """
        if logged.stamp is not None and self.folder.stamp(commit_name(logged.version)) != logged.stamp:
            raise self._created_anew()

    def _created_anew(self) -> LakeUnavailableError:
        return LakeUnavailableError(
            f"The table at {self._storage.uri(self._path)} was created anew while it was used. Run this again."
        )

    def give_back(self, delta: DeltaTable, options: dict[str, str]) -> None:
        """Cache a `DeltaTable` that was taken and has committed since; the caller must not use it any more."""
        with self._lock, suppress(LakeUnavailableError):  # the commit is made; the next look raises the refusal
            self._read_on(delta, options)

    def open(self, version: int | None = None) -> tuple[DeltaTable, dict[str, str]]:
        """Open a version of the table without the cache; return it and its storage options.

        Args:
            version: the Delta version; None for the newest.
        """
        address, options = self._storage.address(self._path)
        with self._storage.explained(self._path, "open"):
            try:
                return DeltaTable(address, version=version, storage_options=options), options
            except DeltaError as error:
                raise explain_unknown(str(error), self._storage.uri(self._path)) or error from None

    def is_newest(self, seen: int | Logged) -> bool:
        """Return whether a version is still the newest, or all later versions have the same files.

        Args:
            seen: a version. A bare number does not say which table it belongs to: it is taken for a version of the
                table that this cache looked at last.
        """
        last = self._last if isinstance(seen, int) else seen
        try:
            now = self.look()
        except TableNotFoundError:
            return False
        version = seen if isinstance(seen, int) else seen.version
        is_another = last is not None and (
            now.table_id != last.table_id or (now.version == last.version == version and now.stamp != last.stamp)
        )
        return not is_another and now.since <= version <= now.version

    def _look_again(self, kept: _Kept) -> Logged | None:
        """Return the newest version by means of the cached one; None where the table must be opened again."""
        version = kept.logged.version
        if time.monotonic() - kept.looked_at > KEPT_SECONDS or not self._is_signed_in(kept):
            return None
        if self.folder.stamp(commit_name(version)) != kept.logged.stamp:
            return None
        if self.folder.has(commit_name(version + 1)):
            return self._read_on(kept.delta, kept.options)
        self._kept = replace(kept, looked_at=time.monotonic())
        return kept.logged

    def _read_on(self, delta: DeltaTable, options: dict[str, str]) -> Logged | None:
        """Read on from an older version and return the newest; None where the table must be opened again."""
        try:
            with self.folder.explained("open"):
                delta.update_incremental()
        except (LakeUnavailableError, TableNotFoundError):
            return None
        return self._keep(delta, options)

    def _keep(self, delta: DeltaTable, options: dict[str, str]) -> Logged:
        looked_at = time.monotonic()
        logged = Logged.of(delta, self._scope)
        if self._scope.is_shared and self._last is not None and logged.follows(self._last):
            logged = replace(logged, since=self._last.since)  # only other services committed in between
        logged = self._last = replace(logged, stamp=self.folder.stamp(commit_name(logged.version)))
        self._kept = None if logged.stamp is None else _Kept(delta, options, logged, looked_at)
        return logged

    def _is_signed_in(self, kept: _Kept) -> bool:
        return kept.options == self._storage.address(self._path)[1]


def commit_name(version: int) -> str:
    """Return the path of a version's commit file, relative to the table's folder."""
    return f"_delta_log/{version:020}.json"
