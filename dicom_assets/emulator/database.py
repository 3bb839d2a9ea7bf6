"""The SQLite database behind the embedded service: instances, changes, data partitions, and the counters over them.

A change remembers the version it made and the UIDs as it shows them; an instance knows the version it has now, or none
once it is deleted. Instances' UIDs that differ in trailing blanks alone are equal, as in SQL Server.
"""

import re
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dicom_assets.emulator.clock import Ticks
from dicom_assets.emulator.errors import EmulatorStartError, InstanceExistsError, InvalidPartitionError

_TABLES = """
CREATE TABLE IF NOT EXISTS data_partition (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS instance (
    key INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL REFERENCES data_partition (key),
    study TEXT NOT NULL COLLATE RTRIM,
    series TEXT NOT NULL COLLATE RTRIM,
    sop_instance TEXT NOT NULL COLLATE RTRIM,
    version INTEGER,            -- of now; NULL: deleted
    metadata TEXT,
    file_path TEXT,
    original_file_path TEXT,    -- of the version that was stored: the service keeps it beside the newest
    fault TEXT,                 -- why the metadata cannot be given out; NULL: it can
    UNIQUE (partition, study, series, sop_instance)
);
CREATE TABLE IF NOT EXISTS change (
    sequence INTEGER PRIMARY KEY,
    ticks INTEGER NOT NULL,
    action INTEGER NOT NULL,
    instance INTEGER NOT NULL REFERENCES instance (key),
    version INTEGER NOT NULL,   -- that the change made or, of a deletion, ended
    study TEXT NOT NULL,
    series TEXT NOT NULL,
    sop_instance TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS change_by_time ON change (ticks, sequence);
"""
# A database from before changes had UIDs of their own: its tables are made anew from the old ones.
_SET_ASIDE = """
ALTER TABLE instance RENAME TO old_instance;
ALTER TABLE change RENAME TO old_change;
DROP INDEX change_by_time;
"""
_TAKE_OVER = """
INSERT INTO instance (key, partition, study, series, sop_instance, version, metadata, file_path, original_file_path)
SELECT key, partition, study, series, sop_instance, version, metadata, file_path, original_file_path FROM old_instance;
INSERT INTO change (sequence, ticks, action, instance, version, study, series, sop_instance)
SELECT c.sequence, c.ticks, c.action, c.instance, c.version, i.study, i.series, i.sop_instance
FROM old_change c JOIN old_instance i ON i.key = c.instance;
DROP TABLE old_change;
DROP TABLE old_instance;
"""
_CREATE = """
INSERT INTO instance (partition, study, series, sop_instance, version, metadata, file_path, original_file_path)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET study = excluded.study, series = excluded.series, sop_instance = excluded.sop_instance,
    version = excluded.version, metadata = excluded.metadata,
    file_path = excluded.file_path, original_file_path = excluded.original_file_path, fault = NULL
WHERE version IS NULL
RETURNING key
"""
_UPDATE = "UPDATE instance SET version = ?, metadata = ?, file_path = ? WHERE key = ?"
_DELETE = """
UPDATE instance SET version = NULL, metadata = NULL, file_path = NULL, original_file_path = NULL, fault = NULL
WHERE key = ?
"""
_FIND = """
SELECT key, study, series, sop_instance, version, metadata, file_path, original_file_path FROM instance
WHERE partition = :partition AND study = :study AND (:series IS NULL OR series = :series)
    AND (:sop_instance IS NULL OR sop_instance = :sop_instance) AND version IS NOT NULL
ORDER BY key
"""
_SET_FAULT = """
UPDATE instance SET fault = :fault
WHERE version IS NOT NULL AND (:partition IS NULL OR partition = :partition) AND (
    sop_instance = :sop_instance OR key = (SELECT instance FROM change WHERE sequence = :sequence)
)
"""
_HEAL_ALL = "UPDATE instance SET fault = NULL WHERE fault IS NOT NULL"
_PARTITION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Live(NamedTuple):
    """An instance that is not deleted."""

    key: int
    study: str
    series: str
    sop_instance: str
    version: int
    metadata: str
    file_path: str | None
    original_file_path: str | None


class Database:
    """One connection, shared between threads under a lock.

    Args:
        path: the SQLite file; None keeps everything in memory.
        seed: fixes where sequences have gaps.

    Raises:
        EmulatorStartError: the file is no such database, or another process has it open.
    """

    def __init__(self, path: Path | None, seed: int) -> None:
        self._seed = seed
        self._lock = threading.RLock()
        self.sequence = 0
        """Of the newest change."""
        self.version = 0
        """The newest that any instance got."""
        self.partitions: dict[str, int] = {}
        """Name to key."""
        try:
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _start_error(path, error) from error
        try:
            # Exclusive: sequences are counted in this process, so no second one may write.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._make_tables()
            self._recall()
        except sqlite3.Error as error:
            self._connection.close()
            raise _start_error(path, error) from error

    def close(self) -> None:
        """Close the connection; what is in memory is gone."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens or nothing does; other threads wait. May be nested."""
        with self._lock:
            nested = self._connection.in_transaction
            before = (self.sequence, self.version, dict(self.partitions))
            self._connection.execute("SAVEPOINT nested" if nested else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK TO nested" if nested else "ROLLBACK")
                if nested:
                    self._connection.execute("RELEASE nested")
                self.sequence, self.version, self.partitions = before
                raise
            self._connection.execute("RELEASE nested" if nested else "COMMIT")

    def fetch(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, parameters or {}).fetchall()

    def add_partition(self, name: str, created: Ticks) -> int:
        """The key of a data partition, made if it does not exist.

        Raises:
            InvalidPartitionError: the name is not accepted.
        """
        key = self.partitions.get(name)
        if key is None:
            if not _PARTITION_NAME.fullmatch(name):
                raise InvalidPartitionError(
                    "A partition's name has 1 to 64 letters, digits, dots, hyphens and underscores."
                )
            key = len(self.partitions) + 1
            self._connection.execute("INSERT INTO data_partition VALUES (?, ?, ?)", (key, name, created))
            self.partitions[name] = key
        return key

    def find(
        self, partition: str, study: str, series: str | None = None, sop_instance: str | None = None
    ) -> list[Live]:
        """The live instances of a study, a series, or the one instance, in the order of their first storing."""
        key = self.partitions.get(partition)
        uids = {"study": study, "series": series, "sop_instance": sop_instance}
        return [Live(*row) for row in self.fetch(_FIND, {"partition": key, **uids})]

    def create(self, partition: int, uids: tuple[str, str, str], metadata: str, file_path: str | None) -> int:
        """Add an instance, or the next version of a deleted one, as version `self.version + 1`. Returns its key.

        Raises:
            InstanceExistsError: it is there and not deleted.
        """
        row = self._connection.execute(
            _CREATE, (partition, *uids, self.version + 1, metadata, file_path, file_path)
        ).fetchone()
        if row is None:
            raise InstanceExistsError(
                "An instance with these UIDs is already stored: delete it first to store it anew."
            )
        return int(row[0])

    def update(self, key: int, metadata: str, file_path: str | None) -> None:
        """Give an instance its next version, `self.version + 1`."""
        self._connection.execute(_UPDATE, (self.version + 1, metadata, file_path, key))

    def delete(self, key: int) -> None:
        """Leave an instance without a version."""
        self._connection.execute(_DELETE, (key,))

    def set_fault(self, which: str | int, partition: int | None, fault: str | None) -> int:
        """Give metadata of live instances a fault, or none. Returns the number of these instances.

        Args:
            which: a SOP instance UID, or the sequence of a change.
            partition: key of the only partition; None means all.
            fault: a name of `unreadable.Fault`; None heals.
        """
        is_sequence = isinstance(which, int)
        parameters = {
            "sequence": which if is_sequence else None,
            "sop_instance": None if is_sequence else which,
            "partition": partition,
            "fault": fault,
        }
        with self._lock:
            return self._connection.execute(_SET_FAULT, parameters).rowcount

    def heal_all(self) -> int:
        """Take all faults away. Returns the number of instances that had one."""
        with self._lock:
            return self._connection.execute(_HEAL_ALL).rowcount

    def append_change(self, ticks: Ticks, action: int, instance: int, version: int, uids: tuple[str, str, str]) -> None:
        """Add a change under the next sequence. Some numbers are left out, as the real service leaves them out.

        Args:
            ticks: the change's time.
            action: one of `feed`'s.
            instance: key of the instance.
            version: that the change made or, of a deletion, ended.
            uids: study, series and SOP instance UID as the change's entry shows them.
        """
        noise = zlib.crc32(b"%d:%d" % (self._seed, self.sequence))
        kind, size = noise % 1024, noise // 1024
        gap = size % 1000 if kind == 0 else size % 5 if kind % 16 == 1 else 0
        self.sequence += 1 + gap
        self.version = max(self.version, version)
        self._connection.execute(
            "INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.sequence, ticks, action, instance, version, *uids),
        )

    def _make_tables(self) -> None:
        """Create the tables that are missing, and take over what an earlier version of the project stored."""
        columns = [row[1] for row in self._connection.execute("PRAGMA table_info(change)")]
        is_old = bool(columns) and "study" not in columns
        move = (_SET_ASIDE, _TAKE_OVER) if is_old else ("", "")
        self._connection.executescript(f"BEGIN;{move[0]}{_TABLES}{move[1]}COMMIT;")

    def _recall(self) -> None:
        """Take the counters and the partitions from the tables."""
        newest = "SELECT ifnull(max(sequence), 0), ifnull(max(version), 0) FROM change"
        self.sequence, self.version = self._connection.execute(newest).fetchone()
        self.partitions = dict(self._connection.execute("SELECT name, key FROM data_partition"))


def _start_error(path: Path | None, error: sqlite3.Error) -> EmulatorStartError:
    return EmulatorStartError(
        f"The database {path} cannot be used: {error}. It is no database of the embedded service, its folder does not"
        " exist, or another process has it open: stop that one, or name another file."
    )
