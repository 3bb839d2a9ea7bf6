"""Delta tables: open them, create them, read them file by file, and merge desired rows into them commit by commit.

delta-rs reads the Delta log. This module writes Parquet files and commits itself, so that a merge costs only the files
that it touches. The merge finds the files that hold a touched key by their study UIDs (or by the range of the key),
rewrites these files one by one, and exchanges them in one commit. Inserted rows go into new files, so that files stay
in order of ingestion.

A commit creates the version after the version that it was planned on, or fails: storage creates the commit's file only
if no file of that version exists. If two writers start from one version, the slower writer retries from the new
version. Any other reason why a commit cannot be made is a refusal, and is not retried. Readers see only whole commits.
A writer that dies leaves only files that no commit names.
"""

import json
import logging
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import CommitConflictError, LakeUnavailableError
from dicom_assets.core.tables.merge import Desired, align_rows
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.commit import (
    ADD_COLUMNS,
    CREATE,
    PROTOCOL,
    SET_PROPERTIES,
    Commit,
    describe_table,
    redescribe_table,
)
from dicom_assets.lake.table.decoded import Decoded
from dicom_assets.lake.table.features import is_log_protected
from dicom_assets.lake.table.foreign import check_can_be_written, check_is_ours
from dicom_assets.lake.table.newest import Newest, commit_name
from dicom_assets.lake.table.parquet import (
    JOINED_AT_ONCE,
    DataFile,
    columns_with_statistics,
    group_small_files,
)
from dicom_assets.lake.table.plan import Plan
from dicom_assets.lake.table.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.table.snapshot import Logged, Snapshot
from dicom_assets.lake.table.staging import Staging
from dicom_assets.lake.table.study_index import StudyIndex

logger = logging.getLogger(__name__)

ATTEMPTS = 30
COMMITS_PER_CHECKPOINT = 10
"""Commits between two checkpoints. Opening a table reads the log from the last checkpoint on, and every run opens each
table once."""
SAFE_RETENTION_HOURS = 48
"""Shortest retention of files and log entries. A run may take one day (`max_runtime_seconds` in dagster.yaml), so two
days are safe: a file that no commit names may still be committed, and only its age shows that it will not be."""

ISOLATION = {"delta.isolationLevel": "Serializable"}
"""Properties of a table that Spark merges. Databricks has a weaker isolation level by default, under which two writers
may insert one key."""
_FENCE = "dicomAssets.fence"
_TRIMMED = "dicomAssets.trimmed"


class Derivation(Protocol):
    """The desired rows of a table, as a function of source tables."""

    def build(self) -> Desired:
        """Return the desired rows from the current versions of the sources."""
        ...

    def is_current(self) -> bool:
        """Return whether the sources are unchanged since the last `build`."""
        ...


@dataclass(frozen=True)
class Given:
    """A derivation without sources: its rows are given."""

    rows: pa.Table
    table: Table
    attributes: pa.Table | None = None
    """Attributes from the rows' metadata, one row for each of `rows` in the same order; None if not decoded yet."""

    def build(self) -> Desired:
        """Return the rows, each key once, in the table's columns and types."""
        rows = align_rows(self.rows, self.table.schema)
        names = [*self.table.key, *([self.table.fence] if self.table.fence else [])]
        return Desired(rows.select(names), rows, self.attributes)

    def is_current(self) -> bool:
        """Return True: a derivation without sources cannot become outdated."""
        return True


@dataclass(frozen=True)
class Effect:
    """Result of some attempts to write a table."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    commits: int = 0
    conflicts: int = 0
    """Commits that other writers won; each was retried."""
    bytes_written: int = 0

    def __add__(self, other: "Effect") -> "Effect":
        return Effect(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Effect)))


@dataclass(frozen=True)
class Written(Effect):
    """Result of a write, and the size of the table after it."""

    version: int = 0
    row_count: int = 0
    """Rows in the table."""
    size_bytes: int = 0
    """Size of the table's live files."""
    file_count: int = 0
    seconds: "Counter[str]" = field(default_factory=Counter)
    """Seconds by stage: derive, merge, commit, join (of small files). Lost attempts count too."""
    table_id: str = ""
    """ID that the table got when it was created."""


class Lake:
    """The tables of one lake. Where several services share the tables, a lake has the rows of one service only."""

    def __init__(
        self, storage: Storage, paths: dict[str, str], *, retention_hours: int = 720, scope: Scope = WHOLE_TABLE
    ) -> None:
        """Create a lake.

        Args:
            storage: the storage of the tables.
            paths: folder by table name.
            retention_hours: hours for which deleted files and log entries are kept; at least `SAFE_RETENTION_HOURS`.
            scope: rows of the tables that are read and written.
        """
        self.storage = storage
        self._paths = paths
        self.scope = scope
        self.retention_hours = max(retention_hours, SAFE_RETENTION_HOURS)
        self._studies = StudyIndex()
        self._decoded = Decoded()
        self._checked: dict[str, tuple[Table, Logged]] = {}
        self._newest = {name: Newest(storage, path, self._decoded, scope) for name, path in paths.items()}

    def forget_metadata(self) -> None:
        """Free the decoded attributes, which are kept for the tables that are derived next."""
        self._decoded.forget()

    def uri(self, table: Table) -> str:
        """Return the location of a table."""
        return self.storage.uri(self._paths[table.name])

    def open(self, table: Table, version: int | None = None) -> Snapshot | None:
        """Open a version of the table, by default the newest; return None if the table does not exist yet.

        Raises:
            ForeignTableError: another kind of table is at the table's place.
            LakeUnavailableError: storage refuses.
        """
        try:
            if version is None:
                return self._look(table)
            delta, _ = self._newest[table.name].open(version)
        except TableNotFoundError:
            return None
        return self._snapshot(table, Logged.of(delta, self.scope), lambda: delta)

    def _look(self, table: Table) -> Snapshot:
        newest = self._newest[table.name]
        logged = newest.look()
        return self._snapshot(table, logged, lambda: newest.take(logged)[0])

    def _snapshot(self, table: Table, logged: Logged, connect: Callable[[], DeltaTable]) -> Snapshot:
        checked = self._checked.get(table.name)
        if checked is None or checked[0] is not table or checked[1] is not logged:
            check_is_ours(table, logged, self.uri(table), self.scope)
            self._checked[table.name] = (table, logged)
        return Snapshot(table, logged, self._newest[table.name].folder, self._studies, connect)

    def open_or_create(self, table: Table) -> Snapshot:
        """Return the table's newest version; create the table or add its missing columns first where needed.

        Raises:
            ForeignTableError: another kind of table is at the table's place, or the table demands of its writers
                something that this project does not do.
            CommitConflictError: other writers won every attempt.
            LakeUnavailableError: storage refuses.
        """
        for attempt in range(ATTEMPTS):
            snapshot = self.open(table)
            if snapshot is not None:
                check_can_be_written(table, snapshot.logged, self.uri(table))
            try:
                if snapshot is None:
                    self._create(table)
                elif missing := [field for field in table.schema if field.name not in snapshot.schema.names]:
                    columns = pa.schema(missing)
                    action = redescribe_table(snapshot.delta, columns=columns)
                    told = {"columns": json.dumps(columns.names)}
                    self._commit(snapshot, Commit(ADD_COLUMNS, parameters=told, others=[action]))
                else:
                    return snapshot
            except CommitFailedError:
                wait_for_others(attempt)  # another writer has probably prepared the table
        raise self._beaten(table, "prepare")

    def version(self, table: Table) -> int | None:
        """Return the table's newest version; None if the table does not exist yet."""
        snapshot = self.open(table)
        return None if snapshot is None else snapshot.version

    def has_version(self, table: Table, version: int | Logged | None) -> bool:
        """Return whether `version` is still the table's newest version; for None, whether the table still is absent.

        A table that was created anew has another history, so the answer is False even if the numbers agree. In a table
        that several services share, commits of the other services do not count.
        """
        return self.open(table) is None if version is None else self._newest[table.name].is_newest(version)

    def write(self, table: Table, derivation: Derivation) -> Written:
        """Merge the desired rows of a derivation into the table; commit nothing if the table holds them already.

        Each attempt opens the target before it reads the sources. A lost commit starts a new attempt, and so do sources
        that changed meanwhile. Hence the last of any number of concurrent writers has read everything that the others
        read: whichever writer commits first, the table finally agrees with its sources.

        A Spark writer that was killed leaves a staged file, and perhaps a MERGE that is still running. The next writer,
        on any engine, locks that MERGE out and then checks the sources once more.

        Raises:
            CommitConflictError: other writers won every attempt.
            ForeignTableError: another kind of table is at the table's place.
            LakeUnavailableError: storage refuses.
        """
        snapshot = self.open_or_create(table)
        staging, others = self._staging(table), self._staged(snapshot)
        written = self._write(snapshot, derivation, Effect(), Counter())
        if not others:
            return written
        marker = staging.mark()  # stays until the write is complete: if this writer is killed, the next writer finds it
        self.lock_out(table, others)
        written = self._write(self.open_or_create(table), derivation, written, written.seconds)
        staging.delete([marker])
        return written

    def _write(self, snapshot: Snapshot, derivation: Derivation, done: Effect, seconds: "Counter[str]") -> Written:
        """Retry until the sources are current; `done` and `seconds` carry the totals of an earlier pass.

        `seconds` is changed in place.
        """
        table = snapshot.table
        for attempt in range(ATTEMPTS):
            if attempt:
                snapshot = self.open_or_create(table)
            try:
                done += self._bring(snapshot, derivation, seconds)
            except CommitFailedError:
                done += Effect(conflicts=1)
                logger.info("A commit to %s lost to another writer's; trying again.", table.name)
                wait_for_others(attempt)
                continue
            if derivation.is_current():
                with timed(seconds, "join"):
                    final = self._join_small_files(self._look(table)) if done.commits else snapshot
                return Written(
                    **asdict(done), version=final.version, row_count=final.row_count, size_bytes=final.size_bytes,
                    file_count=len(final.files), seconds=seconds, table_id=final.table_id,
                )  # fmt: skip
        raise CommitConflictError(
            f"Could not write {self.uri(table)}: other writers or moving sources won {ATTEMPTS} attempts. Run fewer "
            "writers at a time (the pool's limit in dagster.yaml), then run this again: nothing is half-written."
        )

    def _bring(self, snapshot: Snapshot, derivation: Derivation, seconds: "Counter[str]") -> Effect:
        """Make one attempt: merge all desired rows in one commit, or raise CommitFailedError and change nothing."""
        plan = Plan(snapshot)
        try:
            with timed(seconds, "derive"):
                desired = derivation.build()
            with timed(seconds, "merge"):
                plan.prepare(desired)
            del desired
            if plan.is_empty:
                return Effect()
            with timed(seconds, "commit"):
                self._commit_rebasing(snapshot, plan.as_merge())
        except CommitFailedError:
            self._discard(snapshot.table, plan.adds)
            raise
        return Effect(plan.inserted, plan.updated, plan.deleted, 1, bytes_written=plan.bytes_written)

    def _join_small_files(self, snapshot: Snapshot) -> Snapshot:
        """Join some small files if there are enough of them, and return the table's newest version.

        Joining keeps the number of files, and so the cost of a run, from growing with the number of runs. If another
        writer commits first, the files are joined at a later write.
        """
        groups = group_small_files(snapshot.files)
        if not groups:
            return snapshot
        self.join(snapshot, [groups[0][:JOINED_AT_ONCE]])
        return self._look(snapshot.table)

    def join(self, snapshot: Snapshot, groups: Iterable[Sequence[DataFile]]) -> bool:
        """Join each group of files into larger files, in one commit that changes no row.

        Returns:
            Whether the commit was made. If another writer committed first, nothing is joined.
        """
        plan = Plan(snapshot)
        for group in groups:
            parts = (rows for _, rows in snapshot.read(files=group))
            plan.adds.extend(snapshot.folder.write_each(parts, data_change=False))
            plan.removes.extend(file.removal(data_change=False) for file in group)
        try:
            self._commit_rebasing(snapshot, plan.as_optimize())
        except CommitFailedError:
            self._discard(snapshot.table, plan.adds)
            return False
        return True

    def keep_retention(self, snapshot: Snapshot) -> bool:
        """Record in the table's properties how long old files and log entries are kept, for other engines' upkeep.

        Returns:
            Whether a commit was needed, since the properties had other values.

        Raises:
            CommitFailedError: another writer committed first.
        """
        if snapshot.logged.configuration.items() >= self._retention.items():
            return False
        self._set_properties(snapshot, self._retention)
        return True

    @property
    def _retention(self) -> dict[str, str]:
        interval = f"interval {self.retention_hours} hours"
        return {"delta.deletedFileRetentionDuration": interval, "delta.logRetentionDuration": interval}

    def _commit_rebasing(self, snapshot: Snapshot, commit: Commit) -> None:
        """Commit; in a table that several services share, retry the commit on top of the other services' commits.

        The other services touch no file of this service. So the plan stays valid, and only the commit is made again.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._commit(snapshot, commit)
            except CommitFailedError:
                if not self.scope.is_shared:
                    raise
                wait_for_others(attempt)
                planned, snapshot = snapshot.version, self._look(snapshot.table)
                if snapshot.version == planned or snapshot.logged.since > planned:
                    raise
            else:
                return
        raise CommitFailedError(f"other services won {ATTEMPTS} times")

    def _commit(self, snapshot: Snapshot, commit: Commit) -> None:
        """Commit the version after the snapshot's version.

        Raises:
            CommitFailedError: another writer has committed that version.
            LakeUnavailableError: storage refuses, or the table was created anew since the snapshot.
        """
        logged, newest = snapshot.logged, self._newest[snapshot.table.name]
        newest.check_is_there(logged)
        try:
            newest.folder.create(commit_name(logged.version + 1), commit.encode(logged.version))
        except CommitFailedError:
            if newest.look().version > logged.version:
                raise
            raise LakeUnavailableError(
                f"Could not commit to {self.uri(snapshot.table)}: its log has a file of version {logged.version + 1}, "
                "which is not listed or cannot be read yet. If this stays so, `dicom-assets doctor lake` tells whether "
                "the storage lists files in full."
            ) from None
        if self._is_due(logged.version + 1) or self._cleans_after(logged):
            self._tidy_log(newest, logged)

    def _is_due(self, version: int) -> bool:
        return (version + 1) % COMMITS_PER_CHECKPOINT == 0

    def _cleans_after(self, logged: Logged) -> bool:
        """Return whether old log entries are deleted after the commit that follows the version in `logged`.

        Finding old entries costs more the more of them there are, and two writers that delete at one time disturb each
        other. Upkeep deletes them too.
        """
        is_due = not self.scope.is_shared and logged.version % COMMITS_PER_CHECKPOINT == 0
        return is_due and not is_log_protected(logged.protocol)

    def _tidy_log(self, newest: Newest, before: Logged) -> None:
        """Write a checkpoint and delete old log entries, if due; a failure is only logged, since the commit is made."""
        try:
            delta, options = newest.take(newest.look())
            with newest.folder.explained("tidy the log of"):
                if self._is_due(before.version + 1):
                    delta.create_checkpoint()
                if self._cleans_after(before):
                    delta.cleanup_metadata()
            newest.give_back(delta, options)
        except Exception as error:  # any failure here costs only time later
            told = error if isinstance(error, LakeUnavailableError) else type(error).__name__
            logger.info("The log was left as it is, until a later commit or upkeep: %s", told)

    def _staged(self, snapshot: Snapshot) -> list[str]:
        """Return the names of the files staged for a table, by writers that are running or were killed."""
        has_spark = snapshot.logged.configuration.items() >= ISOLATION.items()
        return self._staging(snapshot.table).names() if has_spark else []

    def _staging(self, table: Table) -> Staging:
        return Staging(self.storage, self.scope.qualify(self._paths[table.name]))

    def lock_out(self, table: Table, names: list[str]) -> None:
        """Prevent every MERGE of these staged files from committing.

        A MERGE that has not begun finds no rows, since the files are deleted. A MERGE that has begun cannot commit,
        since the table's metadata changes.
        """
        self._staging(table).delete(names)
        self.set_properties(table, {_FENCE: str(uuid.uuid4())})

    def set_properties(self, table: Table, properties: dict[str, str]) -> None:
        """Set properties of a table, in a separate commit."""
        for attempt in range(ATTEMPTS):
            try:
                self._set_properties(self.open_or_create(table), properties)
            except CommitFailedError:
                wait_for_others(attempt)
            else:
                return
        raise self._beaten(table, "set properties of")

    def _set_properties(self, snapshot: Snapshot, properties: dict[str, str]) -> None:
        action = redescribe_table(snapshot.delta, configuration=properties)
        told = {"properties": json.dumps(properties)}
        self._commit(snapshot, Commit(SET_PROPERTIES, parameters=told, others=[action]))

    def _beaten(self, table: Table, doing: str) -> CommitConflictError:
        return CommitConflictError(
            f"Could not {doing} {self.uri(table)}: other writers won {ATTEMPTS} attempts. Run this again."
        )

    def _discard(self, table: Table, adds: list[AddAction]) -> None:
        """Delete the files of a lost commit, except files that the table has.

        If only the answer to a commit got lost, the commit looks lost although it was made.
        """
        snapshot = self.open_or_create(table)
        live = {file.name for file in snapshot.files}
        snapshot.folder.delete([action.path for action in adds if action.path not in live])

    def _create(self, table: Table) -> None:
        action = describe_table(
            self.scope.add_column(table.schema),
            name=table.name,
            description=f"One row is {table.row}.",
            partition_by=list(self.scope.partition),
            configuration={
                **self._retention,
                trimmed_property(self.scope): "true",
                "delta.checkpointInterval": str(COMMITS_PER_CHECKPOINT),
                "delta.dataSkippingStatsColumns": ",".join(columns_with_statistics(table.schema)),
            },
        )
        with self.storage.explained(self._paths[table.name], "create"):
            folder = self._newest[table.name].folder
        first = Commit(CREATE, parameters={"description": table.name}, others=[{"protocol": PROTOCOL}, action])
        folder.create(commit_name(0), first.encode(), doing="create")


def trimmed_property(scope: Scope) -> str:
    """Return the property that marks a table without rows written by an earlier version of this project.

    Args:
        scope: rows that the property covers.
    """
    return scope.qualify(_TRIMMED, ".")


def wait_for_others(attempt: int) -> None:
    """Wait for other writers, the longer the more attempts were lost."""
    time.sleep(secrets.randbelow(50 * min(2**attempt, 64)) / 1000)


@contextmanager
def timed(seconds: "Counter[str]", stage: str) -> Iterator[None]:
    """Time the block, and add its seconds to the stage's seconds in place."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - began  # type: ignore[assignment]  # counters count floats too
