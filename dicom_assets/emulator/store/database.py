"""The SQLite database of the embedded service: instances, changes, data partitions, and counters.

A change stores the version that it made and the UIDs that its entry shows. An instance stores its current version, or
NULL once it is deleted. UIDs of instances that differ only in trailing blanks are equal, as in SQL Server.
"""

import re
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dicom_assets.emulator.clock import Ticks
from dicom_assets.emulator.errors import EmulatorStartError, InstanceExistsError, InvalidPartitionError
from dicom_assets.emulator.store.feed import CREATE, DELETE, UPDATE

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
# Migration of a database of an earlier version, whose changes had no UIDs: its tables are rebuilt from the old ones.
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
    OR (coalesce(:sop_instance, :sequence) IS NULL AND fault IS NOT NULL)
)
"""
FILE_PATHS = """
SELECT key, file_path FROM instance WHERE file_path IS NOT NULL ORDER BY study, series, key
"""
"""Query of the live instances that have a path."""
METADATA = "SELECT metadata FROM instance WHERE key = :key"
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
    """One database connection, shared between threads under a lock.

    Args:
        path: The SQLite file; None keeps everything in memory.
        seed: Seed that fixes the gaps in the sequences.

    Raises:
        EmulatorStartError: The file is not a database of the embedded service, or another process has it open.
    """

    def __init__(self, path: Path | None, seed: int) -> None:
        self._seed = seed
        self._lock = threading.RLock()
        self.sequence = 0
        """Sequence of the newest change."""
        self.version = 0
        """Newest version of any instance."""
        self.partitions: dict[str, int] = {}
        """Keys of the data partitions, by name."""
        with ExitStack() as opened:
            try:
                self._connection = sqlite3.connect(
                    path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
                )
                opened.callback(self._connection.close)
                self._make_tables()
            except sqlite3.Error as error:
                raise EmulatorStartError(
                    f"The database {path} cannot be used: {error}. It is no database of the embedded service, its"
                    " folder does not exist, or another process has it open: stop that process, or name another file."
                ) from error
            opened.pop_all()

    def close(self) -> None:
        """Close the connection; a database in memory is lost."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction for the block; other threads wait. Transactions may be nested."""
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
        """Return all rows of a query."""
        with self._lock:
            return self._connection.execute(query, parameters or {}).fetchall()

    def add_partition(self, name: str, created: Ticks) -> int:
        """Return the key of a data partition, which is created if it does not exist.

        Raises:
            InvalidPartitionError: The name is not valid.
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
        """Return the live instances of a study or series, or one instance, in the order of their first storing.

        Args:
            partition: Name of the data partition.
            study: Study instance UID.
            series: Series instance UID; None means all series.
            sop_instance: SOP instance UID; None means all instances.
        """
        key = self.partitions.get(partition)
        uids = {"study": study, "series": series, "sop_instance": sop_instance}
        return [Live(*row) for row in self.fetch(_FIND, {"partition": key, **uids})]

    def create(
        self, partition: str, ticks: Ticks, uids: tuple[str, str, str], metadata: str, file_path: str | None
    ) -> int:
        """Add an instance, or store a deleted one again, as the next version, and return its key.

        Raises:
            InstanceExistsError: The instance exists and is not deleted.
            InvalidPartitionError: The partition's name is not valid.
        """
        version = self.version + 1
        values = (self.add_partition(partition, ticks), *uids, version, metadata, file_path, file_path)
        row = self._connection.execute(_CREATE, values).fetchone()
        if row is None:
            raise InstanceExistsError(
                "An instance with these UIDs is already stored: delete it first to store it anew."
            )
        self._append_change(ticks, CREATE, row[0], version, uids)
        return int(row[0])

    def update(self, live: Live, ticks: Ticks, study: str, metadata: str, file_path: str | None) -> None:
        """Give an instance its next version; the change shows the given study UID."""
        version = self.version + 1
        self._connection.execute(_UPDATE, (version, metadata, file_path, live.key))
        self._append_change(ticks, UPDATE, live.key, version, (study, live.series, live.sop_instance))

    def delete(self, live: Live, ticks: Ticks) -> None:
        """Mark an instance as deleted, and clear its metadata and paths."""
        self._connection.execute(_DELETE, (live.key,))
        self._append_change(ticks, DELETE, live.key, live.version, (live.study, live.series, live.sop_instance))

    def set_fault(self, which: str | int | None, partition: str | None, fault: str | None) -> int:
        """Set or clear the fault of live instances' metadata, and return the number of these instances.

        Args:
            which: A SOP instance UID, or the sequence of a change; None means all instances that have a fault.
            partition: Name of the data partition; None means all.
            fault: A value of `unreadable.Fault`; None makes the metadata readable.
        """
        is_sequence = isinstance(which, int)
        parameters = {
            "sequence": which if is_sequence else None,
            "sop_instance": None if is_sequence else which,
            "partition": None if partition is None else self.partitions.get(partition, 0),  # keys begin with 1
            "fault": fault,
        }
        with self._lock:
            return self._connection.execute(_SET_FAULT, parameters).rowcount

    def _append_change(
        self, ticks: Ticks, action: int, instance: int, version: int, uids: tuple[str, str, str]
    ) -> None:
        """Add a change under the next sequence. Some numbers are skipped, as in the real service.

        Args:
            ticks: Time of the change.
            action: One of `feed.CREATE`, `feed.UPDATE` and `feed.DELETE`.
            instance: Key of the instance.
            version: Version that the change made or, for a deletion, ended.
            uids: Study, series and SOP instance UID as the change's entry shows them.
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
        """Create missing tables, migrate a database of an earlier version, and load the counters and partitions."""
        # Exclusive: this process counts the sequences, so no second process may write.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        columns = [row[1] for row in self._connection.execute("PRAGMA table_info(change)")]
        is_old = bool(columns) and "study" not in columns
        move = (_SET_ASIDE, _TAKE_OVER) if is_old else ("", "")
        self._connection.executescript(f"BEGIN;{move[0]}{_TABLES}{move[1]}COMMIT;")
        newest = "SELECT ifnull(max(sequence), 0), ifnull(max(version), 0) FROM change"
        self.sequence, self.version = self._connection.execute(newest).fetchone()
        self.partitions = dict(self._connection.execute("SELECT name, key FROM data_partition"))
