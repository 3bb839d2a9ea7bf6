"""The lake with Spark as merge engine: this process derives rows and stages them as Parquet, and Spark merges them.

Everything else is as in `delta.py`: delta-rs creates, reads and maintains the tables, and desired rows are derived from
the same reads. Spark's MERGE replaces the commit that `delta.py` makes.

A MERGE is one atomic step. Delta aborts it if, since its start, another commit touched what the MERGE read: in a table
without partitions any commit that adds rows, in a table that services share any such commit of the same service. So a
table never holds a key twice. But a MERGE may begin after another writer's commit that the derivation did not see, and
may then overwrite newer rows with older ones. The check of the sources after every write detects this: the sources
changed before the other writer's commit, hence after the derivation, so the derivation is repeated.

A writer that is killed, or gets no answer, leaves a MERGE running in Spark, and nobody checks the sources after that
MERGE. Its staged file shows this to the table's next writer, whatever its engine. The next writer deletes the file, so
that the MERGE cannot begin any more; commits a change of the table's metadata, after which no running MERGE can commit;
and then checks the sources once more (`Lake.write`).
"""

import logging
from collections import Counter

from deltalake.exceptions import CommitFailedError

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import EngineError, EngineUnavailableError
from dicom_assets.lake.spark.merge_statement import build_merge
from dicom_assets.lake.spark.session import (
    LostRaceError,
    NoAnswerError,
    NotSeenError,
    SessionEndedError,
    Spark,
)
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import ISOLATION, Derivation, Effect, Lake, timed
from dicom_assets.lake.table.parquet import decode
from dicom_assets.lake.table.scope import WHOLE_TABLE, Scope
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.staging import Staging

logger = logging.getLogger(__name__)

_METRICS = {
    "inserted": "numTargetRowsInserted",
    "updated": "numTargetRowsUpdated",
    "deleted": "numTargetRowsDeleted",
    "bytes_written": "numTargetBytesAdded",
}


class SparkLake(Lake):
    """Tables of one lake, with Spark as merge engine."""

    def __init__(
        self,
        storage: Storage,
        paths: dict[str, str],
        *,
        spark: Spark,
        retention_hours: int = 720,
        scope: Scope = WHOLE_TABLE,
    ) -> None:
        """Create a lake.

        Args:
            storage: storage of the lake; Spark must reach it under the same name, with rights of its own.
            paths: folder by table name.
            spark: session that merges.
            retention_hours: hours for which deleted files and log entries are kept.
            scope: rows of the tables that are read and written.
        """
        super().__init__(storage, paths, retention_hours=retention_hours, scope=scope)
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
        statement = build_merge(table, snapshot.schema.names, target, source, keys, scope=self.scope)
        del desired
        with timed(seconds, "merge"):
            self._merge(table, staging, name, statement)
        return self._effect(snapshot, name)

    def _merge(self, table: Table, staging: Staging, name: str, statement: str) -> None:
        """Merge a staged file by Spark, and delete the file; where the MERGE may still be running, the file stays."""
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
            raise CommitFailedError(
                "staged rows were taken away"
            )  # some engines read a missing file as one without rows

    def _not_seen(self, table: Table, error: NotSeenError) -> EngineError:
        return EngineError(
            f"Spark at {self._spark.place} does not find {self.uri(table)} ({error}). It probably runs on another "
            "machine, where that folder does not exist, or may not read the account. Nothing was written. Put the "
            "lake where both reach it under one name (a storage account, a shared disk), and give Spark's own "
            "identity rights to it."
        )

    def _effect(self, snapshot: Snapshot, tag: str) -> Effect:
        """Return the effect of the tagged commit since the snapshot's version; an empty effect if there is none.

        The table's cached version is brought up to date.
        """
        before = snapshot.version
        delta = self._look(snapshot.table).delta
        if delta.version() == before:
            return Effect()
        for commit in delta.history(delta.version() - before):
            # Sail stores no user metadata. Its MERGE counts as ours: Sail cannot merge beside another writer.
            is_ours = commit.get("userMetadata") == tag or str(commit.get("engineInfo")).startswith("sail")
            if is_ours and commit["operation"] == "MERGE":
                told = commit.get("operationMetrics") or {}
                return Effect(commits=1, **{name: int(told.get(metric, 0)) for name, metric in _METRICS.items()})
        return Effect()

    def _isolate(self, snapshot: Snapshot) -> None:
        if not snapshot.logged.configuration.items() >= ISOLATION.items():
            self.set_properties(snapshot.table, ISOLATION)


def _location(uri: str) -> str:
    """Return a location for Spark, with a scheme: Spark's default file system may differ from this machine's."""
    return uri if "://" in uri else f"file://{uri}"
