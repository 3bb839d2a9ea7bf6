"""Delta tables: open them, create them, read them file by file, and merge desired rows into them commit by commit.

delta-rs reads the Delta log. The default engine writes Parquet files and commits itself, so that a merge costs only the
files that it touches: it finds the files that may hold a touched key, rewrites them one by one, and exchanges them in
one commit (`plan.py`). Inserted rows go into new files, so that files stay in order of ingestion.

A commit creates the version after the version that it was planned on, or fails: storage creates the commit's file only
if no file of that version exists. If two writers start from one version, the slower writer retries from the new
version. Any other reason why a commit cannot be made is a refusal, and is not retried. Readers see only whole commits.
A writer that dies leaves only files that no commit names.
"""

import json
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import CommitConflictError, LakeError, LakeUnavailableError
from dicom_assets.lake.files.data_file import JOINED_AT_ONCE, DataFile, group_small_files
from dicom_assets.lake.files.parquet import columns_with_statistics
from dicom_assets.lake.files.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.spark.staging import Staging
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.attribute_cache import AttributeCache
from dicom_assets.lake.table.commit import (
    ADD_COLUMNS,
    CREATE,
    PROTOCOL,
    SET_PROPERTIES,
    Commit,
    describe_table,
    redescribe_table,
)
from dicom_assets.lake.table.engine import FileEngine, MergeEngine
from dicom_assets.lake.table.features import is_log_protected
from dicom_assets.lake.table.foreign import check_can_be_written
from dicom_assets.lake.table.log import commit_name
from dicom_assets.lake.table.plan import plan_join
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.study_index import StudyIndex
from dicom_assets.lake.table.version_cache import VersionCache
from dicom_assets.lake.table.writing import Derivation, Effect, Stopwatch, Written

logger = logging.getLogger(__name__)

ATTEMPTS = 30
COMMITS_PER_CHECKPOINT = 10
"""Commits between two checkpoints. Opening a table reads the log from the last checkpoint on, and every run opens each
table once."""
SAFE_RETENTION_HOURS = 48
"""Shortest retention of files and log entries. A run may take one day (`max_runtime_seconds` in dagster.yaml), so two
days are safe: a file that no commit names may still be committed, and only its age shows that it will not be."""
_TRIMMED = "dicomAssets.trimmed"


class Lake:
    """The tables of one lake. Where several services share the tables, a lake has the rows of one service only."""

    def __init__(
        self,
        storage: Storage,
        paths: dict[str, str],
        *,
        retention_hours: int = 720,
        scope: Scope = WHOLE_TABLE,
        engine: MergeEngine | None = None,
    ) -> None:
        """Create a lake.

        Args:
            storage: the storage of the tables.
            paths: folder by table name.
            retention_hours: hours for which deleted files and log entries are kept; at least `SAFE_RETENTION_HOURS`.
            scope: rows of the tables that are read and written.
            engine: engine that merges; None for the engine of this process.
        """
        self.storage = storage
        self._paths = paths
        self.scope = scope
        self.engine = engine or FileEngine()
        self.retention_hours = max(retention_hours, SAFE_RETENTION_HOURS)
        self.attributes = AttributeCache()
        """Attributes of the rows in recently written files, for the tables that are derived next."""
        studies = StudyIndex()
        self._versions = {name: VersionCache(storage, path, studies, scope) for name, path in paths.items()}

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
            return self._look(table) if version is None else self._versions[table.name].open(table, version)
        except TableNotFoundError:
            return None

    def _look(self, table: Table) -> Snapshot:
        return self._versions[table.name].look(table)

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
                check_can_be_written(snapshot)
            try:
                if snapshot is None:
                    self._create(table)
                elif missing := [field for field in table.schema if field.name not in snapshot.schema.names]:
                    action = redescribe_table(snapshot.connect(), columns=pa.schema(missing))
                    parameters = {"columns": json.dumps([field.name for field in missing])}
                    self._commit(snapshot, Commit(ADD_COLUMNS, parameters=parameters, others=[action]))
                else:
                    return snapshot
            except CommitFailedError:
                wait_for_others(attempt)  # another writer has probably prepared the table
        raise self._beaten(table, "prepare")

    def version(self, table: Table) -> int | None:
        """Return the table's newest version; None if the table does not exist yet."""
        snapshot = self.open(table)
        return None if snapshot is None else snapshot.version

    def has_version(self, table: Table, version: int | Snapshot | None) -> bool:
        """Return whether `version` is still the table's newest version; for None, whether the table still is absent.

        A table that was created anew has another history, so the answer is False even if the numbers agree. In a table
        that several services share, commits of the other services do not count.
        """
        return self.open(table) is None if version is None else self._versions[table.name].is_newest(table, version)

    def write(self, table: Table, derivation: Derivation) -> Written:
        """Merge the desired rows of a derivation into the table; commit nothing if the table holds them already.

        Each attempt opens the target before it reads the sources. A lost commit starts a new attempt, and so do sources
        that changed meanwhile. Hence the last of any number of concurrent writers has read everything that the others
        read: whichever writer commits first, the table finally agrees with its sources.

        A Spark writer that was killed may have left a MERGE that is still running. The next writer, on any engine,
        locks that MERGE out and then checks the sources once more (`lake/spark/staging.py`).

        Raises:
            CommitConflictError: other writers won every attempt.
            ForeignTableError: another kind of table is at the table's place.
            LakeUnavailableError: storage refuses.
        """
        snapshot, staging = self.open_or_create(table), self.staging(table)
        unfinished = staging.list_unfinished(snapshot.configuration)
        written = self._write(snapshot, derivation, Effect(), Stopwatch())
        if not unfinished:
            return written
        with staging.marking():
            self.set_properties(table, staging.lock_out(unfinished))
            return self._write(self.open_or_create(table), derivation, written, written.seconds)

    def staging(self, table: Table) -> Staging:
        """Return the files that are staged for merges by Spark into a table."""
        return Staging(self.storage, self.scope.qualify(self._paths[table.name]))

    def _write(self, snapshot: Snapshot, derivation: Derivation, done: Effect, seconds: Stopwatch) -> Written:
        """Retry until the sources are current; `done` and `seconds` carry the totals of an earlier pass.

        `seconds` is changed in place.
        """
        table = snapshot.table
        for attempt in range(ATTEMPTS):
            if attempt:
                snapshot = self.open_or_create(table)
            try:
                done += self.engine.merge(self, snapshot, derivation, seconds)
            except CommitFailedError:
                done += Effect(conflicts=1)
                logger.info("A commit to %s lost to another writer's; trying again.", table.name)
                wait_for_others(attempt)
                continue
            if derivation.is_current():
                with seconds.time("join"):
                    final = self._join_small_files(self._look(table)) if done.commits else snapshot
                return Written(
                    **asdict(done), version=final.version, row_count=final.row_count, size_bytes=final.size_bytes,
                    file_count=len(final.files), seconds=seconds, table_id=final.table_id,
                )  # fmt: skip
        raise CommitConflictError(
            f"Could not write {self.uri(table)}: other writers or moving sources won {ATTEMPTS} attempts. Run fewer "
            "writers at a time (the pool's limit in dagster.yaml), then run this again: nothing is half-written."
        )

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
        try:
            self.commit(snapshot, plan_join(snapshot, groups).as_optimize())
        except CommitFailedError:
            return False
        return True

    def keep_retention(self, snapshot: Snapshot) -> bool:
        """Record in the table's properties how long old files and log entries are kept, for other engines' upkeep.

        Returns:
            Whether a commit was needed, since the properties had other values.

        Raises:
            CommitFailedError: another writer committed first.
        """
        if snapshot.configuration.items() >= self._retention.items():
            return False
        self._set_properties(snapshot, self._retention)
        return True

    @property
    def _retention(self) -> dict[str, str]:
        interval = f"interval {self.retention_hours} hours"
        return {"delta.deletedFileRetentionDuration": interval, "delta.logRetentionDuration": interval}

    def commit(self, snapshot: Snapshot, commit: Commit) -> None:
        """Make a planned commit, or delete the files that it adds.

        Raises:
            CommitFailedError: another writer committed first.
            LakeUnavailableError: storage refuses, or the table was created anew since the snapshot.
        """
        try:
            self._commit_rebasing(snapshot, commit)
        except CommitFailedError:
            self._discard(snapshot.table, commit.adds)
            raise

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
                if snapshot.version == planned or snapshot.since > planned:
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
        versions, version = self._versions[snapshot.table.name], snapshot.version + 1
        versions.check_is_there(snapshot)
        try:
            snapshot.folder.create(commit_name(version), commit.encode(snapshot.version))
        except CommitFailedError:
            if self._look(snapshot.table).version >= version:
                raise
            raise LakeUnavailableError(
                f"Could not commit to {snapshot.uri}: its log has a file of version {version}, which is not listed or "
                "cannot be read yet. If this stays so, `dicom-assets doctor lake` tells whether the storage lists "
                "files in full."
            ) from None
        self._tidy_log(snapshot)

    def _tidy_log(self, before: Snapshot) -> None:
        """Write a checkpoint and delete old log entries after a commit, if due.

        Finding old entries costs more the more of them there are, and two writers that delete at one time disturb each
        other. Upkeep deletes them too. A failure is only logged, since the commit is made.

        Args:
            before: version before the commit.
        """
        is_checkpoint_due = (before.version + 2) % COMMITS_PER_CHECKPOINT == 0
        is_cleaning_due = not self.scope.is_shared and before.version % COMMITS_PER_CHECKPOINT == 0
        is_cleaning_due = is_cleaning_due and not is_log_protected(before.protocol)
        if not (is_checkpoint_due or is_cleaning_due):
            return
        versions = self._versions[before.table.name]
        try:
            delta, options = versions.take(self._look(before.table))
            with before.folder.explained("tidy the log of"):
                if is_checkpoint_due:
                    delta.create_checkpoint()
                if is_cleaning_due:
                    delta.cleanup_metadata()
            versions.give_back(before.table, delta, options)
        except (LakeError, DeltaError) as error:
            reason = error if isinstance(error, LakeError) else type(error).__name__
            logger.info("The log was left as it is, until a later commit or upkeep: %s", reason)

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
        action = redescribe_table(snapshot.connect(), configuration=properties)
        parameters = {"properties": json.dumps(properties)}
        self._commit(snapshot, Commit(SET_PROPERTIES, parameters=parameters, others=[action]))

    def _beaten(self, table: Table, doing: str) -> CommitConflictError:
        return CommitConflictError(
            f"Could not {doing} {self.uri(table)}: other writers won {ATTEMPTS} attempts. Run this again."
        )

    def _discard(self, table: Table, adds: Sequence[AddAction]) -> None:
        """Delete the files of a lost commit, except files that the table has.

        If only the answer to a commit got lost, the commit looks lost although it was made.
        """
        snapshot = self.open_or_create(table)
        live = snapshot.names
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
            folder = self._versions[table.name].folder
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
