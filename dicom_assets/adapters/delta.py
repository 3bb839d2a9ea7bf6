"""Delta tables: opened, created, read file by file, and brought to hold what is desired, one commit at a time.

Delta's log is read by delta-rs. Parquet files and commits are written here, so that a merge costs the files it touches
and nothing else: the files that hold a touched key are found by the study UIDs in them (or by the range of the key),
rewritten one by one, and exchanged in one commit. Inserted rows go into files of their own, so that files stay in order
of ingestion.

A commit succeeds the version it was planned on, or fails: its file is put only if there is none of that version. Of two
writers that started from one version the second starts again from the new one. Whatever else keeps a commit from being
made is a refusal, and is not tried again. Readers see whole commits only; a writer that dies leaves nothing but files
that no commit names.
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

from dicom_assets.adapters.commit import (
    ADD_COLUMNS,
    CREATE,
    PROTOCOL,
    SET_PROPERTIES,
    Commit,
    describe_table,
    redescribe_table,
)
from dicom_assets.adapters.decoded import Decoded
from dicom_assets.adapters.features import is_log_protected
from dicom_assets.adapters.foreign import check_can_be_written, check_is_ours
from dicom_assets.adapters.newest import Newest, commit_name
from dicom_assets.adapters.parquet import (
    JOINED_AT_ONCE,
    DataFile,
    columns_with_statistics,
    group_small_files,
)
from dicom_assets.adapters.plan import Plan
from dicom_assets.adapters.snapshot import Logged, Snapshot
from dicom_assets.adapters.staging import Staging
from dicom_assets.adapters.storage import Storage
from dicom_assets.adapters.study_index import StudyIndex
from dicom_assets.core.errors import CommitConflictError, LakeUnavailableError
from dicom_assets.core.merge import Desired, align_rows
from dicom_assets.core.schema import SERVICE, Table

logger = logging.getLogger(__name__)

ATTEMPTS = 30
COMMITS_PER_CHECKPOINT = 10
"""Whoever opens a table reads its log from the last checkpoint on, and every run opens each table once."""
SAFE_RETENTION_HOURS = 48
"""Two days, since a run may take one (`max_runtime_seconds` in dagster.yaml): what no commit names may be about to be
committed, and nothing but its age says so."""

ISOLATION = {"delta.isolationLevel": "Serializable"}
"""Of a table that Spark merges: under the weaker level that Databricks has by default, two may insert one key."""
_FENCE = "dicomAssets.fence"
_TRIMMED = "dicomAssets.trimmed"


class Derivation(Protocol):
    """What a table must hold, as a function of other tables."""

    def build(self) -> Desired:
        """What the sources, as they are now, make of the table."""
        ...

    def is_current(self) -> bool:
        """Whether the sources are still as they were at the last `build`."""
        ...


@dataclass(frozen=True)
class Given:
    """A derivation from nothing: rows that are known."""

    rows: pa.Table
    table: Table
    attributes: pa.Table | None = None
    """What the rows' metadata says, row beside row, where it was decoded already."""

    def build(self) -> Desired:
        """The rows, each key once, in the table's columns and types."""
        rows = align_rows(self.rows, self.table.schema)
        names = [*self.table.key, *([self.table.fence] if self.table.fence else [])]
        return Desired(rows.select(names), rows, self.attributes)

    def is_current(self) -> bool:
        """Always: there is no source that could move."""
        return True


@dataclass(frozen=True)
class Effect:
    """What attempts did to a table's rows."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    commits: int = 0
    conflicts: int = 0
    """Commits lost to other writers, each tried again."""
    bytes_written: int = 0

    def __add__(self, other: "Effect") -> "Effect":
        return Effect(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Effect)))


@dataclass(frozen=True)
class Written(Effect):
    """What a write did to a table."""

    version: int = 0
    row_count: int = 0
    """Rows in the table."""
    size_bytes: int = 0
    """Size of the table's live files."""
    file_count: int = 0
    seconds: "Counter[str]" = field(default_factory=Counter)
    """By stage: derive, merge, commit, join (of small files). Lost attempts count too."""
    table_id: str = ""
    """Of the table, given to it when it was created."""


class Lake:
    """The tables of one lake; where several services share them, the rows of one, as if there were no others."""

    def __init__(
        self, storage: Storage, paths: dict[str, str], *, retention_hours: int = 720, service: str | None = None
    ) -> None:
        """A lake.

        Args:
            storage: where it lies.
            paths: folder by table name.
            retention_hours: for how long deleted files and the log's entries are kept; `SAFE_RETENTION_HOURS` at least.
            service: whose rows are meant, where several services share the tables.
        """
        self.storage = storage
        self._paths = paths
        self.service = service
        self.retention_hours = max(retention_hours, SAFE_RETENTION_HOURS)
        self._studies = StudyIndex()
        self._decoded = Decoded()
        self._checked: dict[str, tuple[Table, Logged]] = {}
        self._newest = {name: Newest(storage, path, self._decoded, service) for name, path in paths.items()}

    def forget_metadata(self) -> None:
        """Frees what the metadata of entries said, which is kept for the tables that are made from them next."""
        self._decoded.forget()

    def uri(self, table: Table) -> str:
        """Location of a table."""
        return self.storage.uri(self._paths[table.name])

    def open(self, table: Table, version: int | None = None) -> Snapshot | None:
        """A version of the table, by default the newest; None where it does not exist yet.

        Raises:
            ForeignTableError: what lies there is no table of ours.
            LakeUnavailableError: storage refuses.
        """
        try:
            if version is None:
                return self._look(table)
            delta, _ = self._newest[table.name].open(version)
        except TableNotFoundError:
            return None
        return self._snapshot(table, Logged.of(delta, self.service), lambda: delta)

    def _look(self, table: Table) -> Snapshot:
        newest = self._newest[table.name]
        logged = newest.look()
        return self._snapshot(table, logged, lambda: newest.take(logged)[0])

    def _snapshot(self, table: Table, logged: Logged, connect: Callable[[], DeltaTable]) -> Snapshot:
        checked = self._checked.get(table.name)
        if checked is None or checked[0] is not table or checked[1] is not logged:
            check_is_ours(table, logged, self.uri(table), self.service)
            self._checked[table.name] = (table, logged)
        return Snapshot(table, logged, self._newest[table.name].folder, self._studies, connect)

    def open_or_create(self, table: Table) -> Snapshot:
        """Return the table's newest version, after creating it or adding the columns it lacks, as need be.

        Raises:
            ForeignTableError: what lies there is no table of ours, or asks of its writers what is not done here.
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
                wait_for_others(attempt)  # one of them has probably done it
        raise self._beaten(table, "prepare")

    def version(self, table: Table) -> int | None:
        """The table's newest version; None where it does not exist yet."""
        snapshot = self.open(table)
        return None if snapshot is None else snapshot.version

    def has_version(self, table: Table, version: int | Logged | None) -> bool:
        """Return whether that is the table's newest version still; of None, whether it does still not exist.

        A version of a table that was created anew since is not, whatever its number. A commit of another service, in a
        table that several share, does not count.
        """
        return self.open(table) is None if version is None else self._newest[table.name].is_newest(version)

    def write(self, table: Table, derivation: Derivation) -> Written:
        """Brings the table to hold what the derivation says; no commit where it does already.

        The target is opened before the sources are read, a lost commit starts again from there, and sources that moved
        meanwhile are read again. Hence of any number of concurrent writers the last one has seen all that any of them
        saw: whichever commits first, the table ends as the sources say.

        A writer on Spark that was killed left a staged file, and maybe a MERGE with nobody to look after it. That is
        locked out, whichever engine comes next, and then the sources are looked at once more.

        Raises:
            CommitConflictError: other writers won every attempt.
            ForeignTableError: what lies there is no table of ours.
            LakeUnavailableError: storage refuses.
        """
        snapshot = self.open_or_create(table)
        staging, others = self._staging(table), self._staged(snapshot)
        written = self._write(snapshot, derivation, Effect(), Counter())
        if not others:
            return written
        marker = staging.mark()  # until all is done: who comes after a writer that is killed here begins with it
        self.lock_out(table, others)
        written = self._write(self.open_or_create(table), derivation, written, written.seconds)
        staging.delete([marker])
        return written

    def _write(self, snapshot: Snapshot, derivation: Derivation, done: Effect, seconds: "Counter[str]") -> Written:
        """The same, after what was done and spent before."""
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
        """One attempt at it: all of what the derivation says in one commit, or a CommitFailedError and nothing."""
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
                self._commit_in_turn(snapshot, plan.as_merge())
        except CommitFailedError:
            self._discard(snapshot.table, plan.adds)
            raise
        return Effect(plan.inserted, plan.updated, plan.deleted, 1, bytes_written=plan.bytes_written)

    def _join_small_files(self, snapshot: Snapshot) -> Snapshot:
        """Joins some small files where there are enough; returns the table's newest version.

        So the number of files, and with it the cost of a run, does not grow with the number of runs. Where another
        writer is quicker, the files wait for the next time.
        """
        groups = group_small_files(snapshot.files)
        if not groups:
            return snapshot
        self.join(snapshot, [groups[0][:JOINED_AT_ONCE]])
        return self._look(snapshot.table)

    def join(self, snapshot: Snapshot, groups: Iterable[Sequence[DataFile]]) -> bool:
        """Joins each group of files, in one commit that changes no row.

        Returns:
            Whether it was committed: where another writer was quicker, the table is as that one left it.
        """
        plan = Plan(snapshot)
        for group in groups:
            parts = (rows for _, rows in snapshot.read(files=group))
            plan.adds.extend(snapshot.folder.write_each(parts, data_change=False))
            plan.removes.extend(file.removal(data_change=False) for file in group)
        try:
            self._commit_in_turn(snapshot, plan.as_optimize())
        except CommitFailedError:
            self._discard(snapshot.table, plan.adds)
            return False
        return True

    def keep_retention(self, snapshot: Snapshot) -> bool:
        """Tells the table how long old files and the log are kept, for whoever else cleans it.

        Returns:
            Whether that had to be committed, since it was told otherwise before.

        Raises:
            CommitFailedError: another writer was quicker.
        """
        if snapshot.logged.configuration.items() >= self._retention.items():
            return False
        self._set_properties(snapshot, self._retention)
        return True

    @property
    def _retention(self) -> dict[str, str]:
        interval = f"interval {self.retention_hours} hours"
        return {"delta.deletedFileRetentionDuration": interval, "delta.logRetentionDuration": interval}

    def _commit_in_turn(self, snapshot: Snapshot, commit: Commit) -> None:
        """Commits; in a table that several services share, behind what the others commit meanwhile.

        They touch no file of this one's, so what was planned is right still, and only the commit is made again.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._commit(snapshot, commit)
            except CommitFailedError:
                if self.service is None:
                    raise
                wait_for_others(attempt)
                planned, snapshot = snapshot.version, self._look(snapshot.table)
                if snapshot.version == planned or snapshot.logged.since > planned:
                    raise
            else:
                return
        raise CommitFailedError(f"other services won {ATTEMPTS} times")

    def _commit(self, snapshot: Snapshot, commit: Commit) -> None:
        """Make the successor of a version.

        Raises:
            CommitFailedError: another writer has made it.
            LakeUnavailableError: storage refuses, or the table was created anew since.
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
        """Whether old entries of the log are deleted after the commit that succeeds a version.

        To look for them costs more the more there are, and two who delete them disturb each other. Upkeep does it too.
        """
        is_due = self.service is None and logged.version % COMMITS_PER_CHECKPOINT == 0
        return is_due and not is_log_protected(logged.protocol)

    def _tidy_log(self, newest: Newest, before: Logged) -> None:
        """Write a checkpoint and delete old entries of the log, as is due; the commit is made, whatever comes of it."""
        try:
            delta, options = newest.take(newest.look())
            with newest.folder.explained("tidy the log of"):
                if self._is_due(before.version + 1):
                    delta.create_checkpoint()
                if self._cleans_after(before):
                    delta.cleanup_metadata()
            newest.give_back(delta, options)
        except Exception as error:  # whatever it is: only time is lost
            told = error if isinstance(error, LakeUnavailableError) else type(error).__name__
            logger.info("The log was left as it is, until a later commit or upkeep: %s", told)

    def _staged(self, snapshot: Snapshot) -> list[str]:
        """What is staged for a table: by writers that are at work, or were killed."""
        has_spark = snapshot.logged.configuration.items() >= ISOLATION.items()
        return self._staging(snapshot.table).names() if has_spark else []

    def _staging(self, table: Table) -> Staging:
        return Staging(self.storage, "/".join(filter(None, [self._paths[table.name], self.service])))

    def lock_out(self, table: Table, names: list[str]) -> None:
        """Has no MERGE of these staged files committed any more.

        One that has not begun finds no rows; with a change of the table's metadata none can be committed that has.
        """
        self._staging(table).delete(names)
        self.set_properties(table, {_FENCE: str(uuid.uuid4())})

    def set_properties(self, table: Table, properties: dict[str, str]) -> None:
        """Set properties of a table, in a commit of its own."""
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
        """Deletes the files of a lost commit.

        Not those that the table has: where the answer to a commit got lost, the commit looks lost, and is not.
        """
        snapshot = self.open_or_create(table)
        live = {file.name for file in snapshot.files}
        snapshot.folder.delete([action.path for action in adds if action.path not in live])

    def _create(self, table: Table) -> None:
        is_shared = self.service is not None
        action = describe_table(
            pa.schema([SERVICE.arrow, *table.schema]) if is_shared else table.schema,
            name=table.name,
            description=f"One row is {table.row}.",
            partition_by=[SERVICE.name] if is_shared else [],
            configuration={
                **self._retention,
                trimmed_property(self.service): "true",
                "delta.checkpointInterval": str(COMMITS_PER_CHECKPOINT),
                "delta.dataSkippingStatsColumns": ",".join(columns_with_statistics(table.schema)),
            },
        )
        with self.storage.explained(self._paths[table.name], "create"):
            folder = self._newest[table.name].folder
        first = Commit(CREATE, parameters={"description": table.name}, others=[{"protocol": PROTOCOL}, action])
        folder.create(commit_name(0), first.encode(), doing="create")


def trimmed_property(service: str | None) -> str:
    """Return the property of a table in which no row of an earlier version is left, of a service or of all."""
    return ".".join(filter(None, [_TRIMMED, service]))


def wait_for_others(attempt: int) -> None:
    """Lets other writers finish, the longer the more attempts were lost."""
    time.sleep(secrets.randbelow(50 * min(2**attempt, 64)) / 1000)


@contextmanager
def timed(seconds: "Counter[str]", stage: str) -> Iterator[None]:
    """Adds the time that the block takes to the stage's."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - began  # type: ignore[assignment]  # counters count floats too
