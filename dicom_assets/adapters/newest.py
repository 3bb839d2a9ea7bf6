"""The newest version of a table, kept between two looks at it: to open a table reads its log, and a run looks often.

A look asks the log two things. Is the commit that was the newest still the same file? If the table was created anew,
or brought back from a backup, it is another or none. And is there one after it? If not, what is kept is the newest
version; if so, delta-rs reads on from there. Where anything else is found, the table is opened as if for the first
time.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from dicom_assets.adapters.decoded import Decoded
from dicom_assets.adapters.features import explain_unknown
from dicom_assets.adapters.parquet import Files
from dicom_assets.adapters.snapshot import Logged
from dicom_assets.adapters.storage import Storage
from dicom_assets.core.errors import LakeUnavailableError

KEPT_SECONDS = 3600
"""Not looked at for so long, a table is opened again: no commit is cleaned from a log so soon after it was made, so one
that is not there was never made."""


@dataclass(frozen=True)
class _Kept:
    delta: DeltaTable
    options: dict[str, str]
    """Those that delta-rs was given; a token among them expires."""
    logged: Logged
    looked_at: float


class Newest:
    """The newest version of one table; may be used by many threads.

    A `DeltaTable` moves on to other versions, so it has one holder: it is kept here, or was taken by somebody who then
    has it alone.
    """

    def __init__(self, storage: Storage, path: str, decoded: Decoded, service: str | None = None) -> None:
        """Nothing kept yet.

        Args:
            storage: where the lake lies.
            path: the table's folder.
            decoded: what is known of its files.
            service: whose rows are meant, where the table has those of several.
        """
        self._storage = storage
        self._path = path
        self._decoded = decoded
        self._service = service
        self._last: Logged | None = None
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._folder: tuple[Storage, Files] | None = None

    @property
    def folder(self) -> Files:
        """The table's files."""
        if self._folder is None or self._folder[0] is not self._storage:
            self._folder = self._storage, Files(self._storage, self._path, self._decoded, self._service)
        return self._folder[1]

    def look(self) -> Logged:
        """The newest version at this moment.

        Raises:
            TableNotFoundError: there is no table.
            LakeUnavailableError: storage refuses.
        """
        with self._lock:
            kept, self._kept = self._kept, None
            return (kept and self._look_again(kept)) or self._keep(*self.open())

    def take(self, logged: Logged) -> tuple[DeltaTable, dict[str, str]]:
        """A version that was the newest, for the caller alone; and the options that it is signed in with, good now.

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
        """Check that a version that was the newest is in the log still, as it was.

        Raises:
            LakeUnavailableError: it is not, so the table was created anew, or brought back from a backup.
        """
        if logged.stamp is not None and self.folder.stamp(commit_name(logged.version)) != logged.stamp:
            raise self._created_anew()

    def _created_anew(self) -> LakeUnavailableError:
        return LakeUnavailableError(
            f"The table at {self._storage.uri(self._path)} was created anew while it was used. Run this again."
        )

    def give_back(self, delta: DeltaTable, options: dict[str, str]) -> None:
        """Keeps a table that was taken, and has committed since; its holder uses it no more."""
        with self._lock, suppress(LakeUnavailableError):  # the commit is made; whoever looks next will be refused
            self._read_on(delta, options)

    def open(self, version: int | None = None) -> tuple[DeltaTable, dict[str, str]]:
        """A version of the table, whatever is kept; and the options that it is signed in with."""
        address, options = self._storage.address(self._path)
        with self._storage.explained(self._path, "open"):
            try:
                return DeltaTable(address, version=version, storage_options=options), options
            except DeltaError as error:
                raise explain_unknown(str(error), self._storage.uri(self._path)) or error from None

    def is_newest(self, seen: int | Logged) -> bool:
        """Return whether a version, or the files that it had, is the newest still.

        Of a number alone it is known which table it was of, if it was the last that was looked at here.
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
        """The newest version by what is kept; None where the table is to be opened anew."""
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
        """The newest version, read on from an older one; None where the table is to be opened anew."""
        try:
            with self.folder.explained("open"):
                delta.update_incremental()
        except (LakeUnavailableError, TableNotFoundError):
            return None
        return self._keep(delta, options)

    def _keep(self, delta: DeltaTable, options: dict[str, str]) -> Logged:
        looked_at = time.monotonic()
        logged = Logged.of(delta, self._service)
        if self._service is not None and self._last is not None and logged.follows(self._last):
            logged = replace(logged, since=self._last.since)  # other services' commits lie between the two
        logged = self._last = replace(logged, stamp=self.folder.stamp(commit_name(logged.version)))
        self._kept = None if logged.stamp is None else _Kept(delta, options, logged, looked_at)
        return logged

    def _is_signed_in(self, kept: _Kept) -> bool:
        return kept.options == self._storage.address(self._path)[1]


def commit_name(version: int) -> str:
    """The file of a version in the log, below the table's folder."""
    return f"_delta_log/{version:020}.json"
