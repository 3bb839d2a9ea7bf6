"""Merge engines: how desired rows get into a table. `lake/spark/engine.py` has another one."""

from typing import TYPE_CHECKING, Protocol

from dicom_assets.lake.table.plan import plan_merge
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.writing import Derivation, Effect, Stopwatch

if TYPE_CHECKING:
    from dicom_assets.lake.table.delta import Lake


class MergeEngine(Protocol):
    """One attempt to merge the rows of a derivation into a table."""

    def merge(self, lake: "Lake", snapshot: Snapshot, derivation: Derivation, seconds: Stopwatch) -> Effect:
        """Merge all desired rows in one commit; commit nothing where the table has these rows already.

        Args:
            lake: lake of the table.
            snapshot: newest version of the table, opened before the sources are read.
            derivation: gives the desired rows.
            seconds: gets the seconds by stage.

        Raises:
            CommitFailedError: another writer committed first; nothing was changed.
        """
        ...


class FileEngine:
    """Merge engine that rewrites Parquet files in this process."""

    def merge(self, lake: "Lake", snapshot: Snapshot, derivation: Derivation, seconds: Stopwatch) -> Effect:
        """Make one attempt, as `MergeEngine` says."""
        with seconds.time("derive"):
            desired = derivation.build()
        with seconds.time("merge"):
            plan = plan_merge(snapshot, desired)
        del desired
        if plan.is_empty:
            return Effect()
        with seconds.time("commit"):
            lake.commit(snapshot, plan.as_merge(snapshot.table.key))
        if plan.attributes is not None:
            lake.attributes.keep(plan.inserts, plan.attributes)
        return Effect(plan.inserted, plan.updated, plan.deleted, 1, bytes_written=plan.bytes_written)
