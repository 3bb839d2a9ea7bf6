"""Spark as merge engine: this process derives rows and stages them as Parquet, and Spark merges them.

Everything else is as in `delta.py`: delta-rs creates, reads and maintains the tables, and desired rows are derived from
the same reads. Spark's MERGE replaces the commit that `delta.py` makes.

A MERGE is one atomic step. Delta aborts it if, since its start, another commit touched what the MERGE read: in a table
without partitions any commit that adds rows, in a table that services share any such commit of the same service. So a
table never holds a key twice. But a MERGE may begin after another writer's commit that the derivation did not see, and
may then overwrite newer rows with older ones. The check of the sources after every write detects this: the sources
changed before the other writer's commit, hence after the derivation, so the derivation is repeated.

What a killed writer leaves running is locked out by the table's next writer (`staging.py`).
"""

from dataclasses import dataclass

from deltalake.exceptions import CommitFailedError

from dicom_assets.core.errors import EngineError, EngineUnavailableError
from dicom_assets.lake.files.parquet import decode
from dicom_assets.lake.spark.merge_statement import build_merge
from dicom_assets.lake.spark.session import (
    LostRaceError,
    NoAnswerError,
    NotSeenError,
    SessionEndedError,
    Spark,
)
from dicom_assets.lake.spark.staging import ISOLATION, Staging, is_isolated
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.writing import Derivation, Effect, Stopwatch

_METRICS = {
    "inserted": "numTargetRowsInserted",
    "updated": "numTargetRowsUpdated",
    "deleted": "numTargetRowsDeleted",
    "bytes_written": "numTargetBytesAdded",
}


@dataclass(frozen=True)
class SparkEngine:
    """Merge engine that lets Spark merge. Spark must reach the lake under the same name, with rights of its own."""

    spark: Spark

    def merge(self, lake: Lake, snapshot: Snapshot, derivation: Derivation, seconds: Stopwatch) -> Effect:
        """Make one attempt, as `MergeEngine` says."""
        table, staging = snapshot.table, lake.staging(snapshot.table)
        with seconds.time("derive"):
            desired = decode(derivation.build())
        if not len(desired.keys):
            return Effect()
        if not is_isolated(snapshot.configuration):
            lake.set_properties(table, ISOLATION)
        with seconds.time("stage"):
            name = staging.put(desired, table)
        target, source = _location(snapshot.uri), _location(staging.uri(name))
        statement = build_merge(table, snapshot.schema.names, target, source, desired.keys, scope=snapshot.scope)
        del desired
        with seconds.time("merge"):
            self._merge(lake, snapshot, staging, name, statement)
        return _read_effect(lake, snapshot, name)

    def _merge(self, lake: Lake, snapshot: Snapshot, staging: Staging, name: str, statement: str) -> None:
        """Merge a staged file by Spark, and delete the file; where the MERGE may still be running, the file stays."""
        try:
            self.spark.merge(statement, name)
        except NoAnswerError:
            raise
        except SessionEndedError as error:
            lake.set_properties(snapshot.table, staging.lock_out([name]))
            raise CommitFailedError("Spark's session has ended") from error
        except (EngineError, EngineUnavailableError, LostRaceError, NotSeenError) as error:
            was_there = _delete(staging, name)
            if isinstance(error, EngineUnavailableError) or (was_there and isinstance(error, EngineError)):
                raise
            if was_there and isinstance(error, NotSeenError):
                raise self._not_seen(snapshot.uri, error) from error
            raise CommitFailedError("another writer was quicker, or took the staged rows away") from error
        if not _delete(staging, name):  # some engines read a missing file as one without rows
            raise CommitFailedError("staged rows were taken away")

    def _not_seen(self, uri: str, error: NotSeenError) -> EngineError:
        return EngineError(
            f"Spark at {self.spark.place} does not find {uri} ({error}). It probably runs on another machine, where "
            "that folder does not exist, or may not read the account. Nothing was written. Put the lake where both "
            "reach it under one name (a storage account, a shared disk), and give Spark's own identity rights to it."
        )


def _delete(staging: Staging, name: str) -> bool:
    """Delete a staged file; return whether it was still there."""
    was_there = name in staging.names()
    staging.delete([name])
    return was_there


def _read_effect(lake: Lake, snapshot: Snapshot, tag: str) -> Effect:
    """Return the effect of the tagged commit since the snapshot's version; an empty effect if there is none."""
    newest = lake.open(snapshot.table)
    if newest is None or newest.version == snapshot.version:
        return Effect()
    for commit in newest.connect().history(newest.version - snapshot.version):
        # Sail stores no user metadata. Its MERGE counts as ours: Sail cannot merge beside another writer.
        is_ours = commit.get("userMetadata") == tag or str(commit.get("engineInfo")).startswith("sail")
        if is_ours and commit["operation"] == "MERGE":
            metrics = commit.get("operationMetrics") or {}
            return Effect(commits=1, **{name: int(metrics.get(metric, 0)) for name, metric in _METRICS.items()})
    return Effect()


def _location(uri: str) -> str:
    """Return a location for Spark, with a scheme: Spark's default file system may differ from this machine's."""
    return uri if "://" in uri else f"file://{uri}"
