"""The lake with Spark as merge engine: rows are worked out here, staged as Parquet, and merged by Spark.

Everything else is as in `delta.py`: tables are created, read and kept tidy by delta-rs, and what a table must hold is
derived from the same reads. Spark's MERGE takes the place of a commit that is made here.

Such a MERGE is one atomic step: Delta gives it up where another commit since its start touched what it read, which
in tables without partitions is any commit that brings rows, and in those that services share any of the same service.
So the table never holds a key twice. But it may begin after a commit that the derivation has not seen, and put rows
back that are older than those. The look at the sources that follows every write finds that: they moved before that
other commit, hence since the derivation, and it is made anew.

A writer that is killed, or gets no answer, leaves a MERGE behind that goes on in Spark, with nobody to look at the
sources after it. Its staged file tells. Whoever writes the table next, by whichever engine, deletes that file, so that
the MERGE cannot begin any more; commits a change of the table's metadata, with which no MERGE under way can be
committed; and then looks once more (`Lake.write`).
"""

import logging
from collections import Counter

from deltalake.exceptions import CommitFailedError

from dicom_assets.adapters.delta import ISOLATION, Derivation, Effect, Lake, timed
from dicom_assets.adapters.merge_statement import build_merge
from dicom_assets.adapters.parquet import decode
from dicom_assets.adapters.snapshot import Snapshot
from dicom_assets.adapters.spark_session import (
    LostRaceError,
    NoAnswerError,
    NotSeenError,
    SessionEndedError,
    Spark,
)
from dicom_assets.adapters.staging import Staging
from dicom_assets.adapters.storage import Storage
from dicom_assets.core.errors import EngineError, EngineUnavailableError
from dicom_assets.core.schema import Table

logger = logging.getLogger(__name__)

_METRICS = {
    "inserted": "numTargetRowsInserted",
    "updated": "numTargetRowsUpdated",
    "deleted": "numTargetRowsDeleted",
    "bytes_written": "numTargetBytesAdded",
}


class SparkLake(Lake):
    """The tables of one lake, merged by Spark."""

    def __init__(
        self,
        storage: Storage,
        paths: dict[str, str],
        *,
        spark: Spark,
        retention_hours: int = 720,
        service: str | None = None,
    ) -> None:
        """A lake.

        Args:
            storage: where it lies; Spark must see it under the same name, with rights of its own.
            paths: folder by table name.
            spark: that merges.
            retention_hours: for how long deleted files and the log's entries are kept.
            service: whose rows are meant, where several services share the tables.
        """
        super().__init__(storage, paths, retention_hours=retention_hours, service=service)
        self._spark = spark

    def _bring(self, snapshot: Snapshot, derivation: Derivation, seconds: "Counter[str]") -> Effect:
        table = snapshot.table
        staging = self._staging(table)
        with timed(seconds, "derive"):
            desired = decode(derivation.build())
        if not len(desired.keys):
            return Effect()
        self._isolate(snapshot)
        with timed(seconds, "stage"):
            name = staging.put(desired, table)
        target, source = _location(self.uri(table)), _location(staging.uri(name))
        keys = desired.rows if "windowStart" in table.schema.names else None
        statement = build_merge(table, snapshot.schema.names, target, source, keys, service=self.service)
        del desired
        with timed(seconds, "merge"):
            self._merge(table, staging, name, statement)
        return self._effect(snapshot, name)

    def _merge(self, table: Table, staging: Staging, name: str, statement: str) -> None:
        """Has Spark merge a staged file, which is deleted then; where the MERGE may go on, it stays."""
        try:
            self._spark.merge(statement, name)
        except NoAnswerError:
            raise
        except SessionEndedError as error:
            self.lock_out(table, [name])
            raise CommitFailedError("Spark's session has ended") from error
        except (EngineError, EngineUnavailableError, LostRaceError, NotSeenError) as error:
            is_there = name in staging.names()
            staging.delete([name])
            if isinstance(error, EngineUnavailableError) or (is_there and isinstance(error, EngineError)):
                raise
            if is_there and isinstance(error, NotSeenError):
                raise self._not_seen(table, error) from error
            raise CommitFailedError("another writer was quicker, or took the staged rows away") from error
        is_there = name in staging.names()
        staging.delete([name])
        if not is_there:
            raise CommitFailedError("staged rows were taken away")  # there are engines that take none for no rows

    def _not_seen(self, table: Table, error: NotSeenError) -> EngineError:
        return EngineError(
            f"Spark at {self._spark.place} does not find {self.uri(table)} ({error}). It probably runs on another "
            "machine, where that folder does not exist, or may not read the account. Nothing was written. Put the "
            "lake where both reach it under one name (a storage account, a shared disk), and give Spark's own "
            "identity rights to it."
        )

    def _effect(self, snapshot: Snapshot, tag: str) -> Effect:
        """What the commit with the tag did since the snapshot, which is brought up to date; nothing without one."""
        before = snapshot.version
        delta = self._look(snapshot.table).delta
        if delta.version() == before:
            return Effect()
        for commit in delta.history(delta.version() - before):
            # Sail keeps no user metadata; nor can it merge beside another writer.
            is_ours = commit.get("userMetadata") == tag or str(commit.get("engineInfo")).startswith("sail")
            if is_ours and commit["operation"] == "MERGE":
                told = commit.get("operationMetrics") or {}
                return Effect(commits=1, **{name: int(told.get(metric, 0)) for name, metric in _METRICS.items()})
        return Effect()

    def _isolate(self, snapshot: Snapshot) -> None:
        if not snapshot.logged.configuration.items() >= ISOLATION.items():
            self.set_properties(snapshot.table, ISOLATION)


def _location(uri: str) -> str:
    """For Spark, whose own file system may be another than the machine's."""
    return uri if "://" in uri else f"file://{uri}"
