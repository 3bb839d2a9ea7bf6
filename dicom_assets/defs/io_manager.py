"""The IO manager between assets and the lake's Delta tables.

Our own, since dagster-delta's merge knows neither deletes nor a fence, and looks for a key in one partition only.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import dagster as dg
import deltalake
import pyarrow as pa
import pyarrow.compute as pc
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator

from dicom_assets.adapters.delta import Derivation, Given, Lake, Written
from dicom_assets.adapters.derive import HoursOf, is_within
from dicom_assets.adapters.memory import MemoryLimit, release_memory
from dicom_assets.adapters.snapshot import Snapshot
from dicom_assets.core.change_feed import Window
from dicom_assets.core.schema import SERVICE, Table
from dicom_assets.defs.failure import retrying
from dicom_assets.defs.observed import Reading, Told
from dicom_assets.defs.partitions import partition_key, to_window
from dicom_assets.defs.preview import build_preview
from dicom_assets.defs.progress import Writing
from dicom_assets.defs.resume import record_hours
from dicom_assets.defs.same_lake import TABLE_ID, TABLE_VERSION
from dicom_assets.defs.same_version import require_recent

RANGE = "range"
"""Under this the last partition of a range tells what the run did for all of them."""


class DeltaIOManager(dg.IOManager):
    """Stores an asset's output in the Delta table of its name, and loads a table's rows for the run's hours.

    An output is a `Derivation` (what the table must hold for some keys), an Arrow table of rows, or an iterable of
    either, each a commit of its own. Rows of other keys are left alone, whatever the partition.

    An input is loaded as its annotation says: `pyarrow.Table`, `pyarrow.RecordBatchReader`, `polars.LazyFrame`,
    `deltalake.DeltaTable` (the whole table, with the rows of all services that share it), or `HoursOf` (nothing is
    read). A row belongs to the hour of its `windowStart`, or else of its `lastModifiedTimestamp`.
    """

    def __init__(self, lake: Lake, tables: Mapping[str, Table], memory: MemoryLimit | None = None) -> None:
        """An IO manager.

        Args:
            lake: where the tables lie.
            tables: by asset name.
            memory: what a derivation that can be made in parts should do with.
        """
        self.lake = lake
        self._tables = tables
        self._memory = memory or MemoryLimit()
        self._begun = ""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Brings the table to hold the output, and tells Dagster what that did."""
        table = self._table(context.asset_key)
        cpu = time.process_time()
        results: list[Written] = []
        try:
            with retrying(context.step_context.previous_attempt_count):
                self._begin_run(context)
                derivations = _to_derivations(obj, table, self._memory.entries)
                parts = len(derivations) if isinstance(derivations, list) else None
                writing = Writing(table.name, parts, context.log.info)
                for derivation in derivations:
                    with writing.part():
                        results.append(self.lake.write(table, derivation))
                results = results or [self.lake.write(table, Given(table.schema.empty_table(), table))]
        except BaseException:  # a run that is cancelled too
            if isinstance(obj, Reading):
                record_hours(context, obj)
                obj.close()  # Dagster forgets the asset where it waits, with the client open
            raise
        finally:
            release_memory()
        told = obj if isinstance(obj, Told) else None
        run = (told.describe_run() if told else {}) | _describe(results)
        run["seconds/cpu"] = round(time.process_time() - cpu, 3)
        state = _describe_table(results[-1])
        hours = {partition_key(start): numbers for start, numbers in (told.describe_hours() if told else {}).items()}
        if context.has_asset_partitions and len(keys := context.asset_partition_keys) > 1:
            hours[keys[-1]] = hours.get(keys[-1], {}) | state | {RANGE: {"hours": len(keys)} | run}
            add_partition_metadata(context, hours)
            return
        preview = build_preview(table.name, told.sample) if told and told.sample is not None else None
        of_hour = next(iter(hours.values()), {})
        context.add_output_metadata(state | run | of_hour | ({} if preview is None else {"preview": preview}))

    def load_input(self, context: dg.InputContext) -> Any:
        """The table's rows of the run's hours, in the type that the input is annotated with."""
        table = self._table(context.asset_key)
        window = to_window(context.asset_partitions_time_window) if context.has_asset_partitions else None
        with retrying(context.step_context.previous_attempt_count):
            return self._load(table, window, context.dagster_type.typing_type)

    def _begin_run(self, context: dg.OutputContext) -> None:
        """What is done once a run, since its steps are all of this process."""
        run = context.step_context.dagster_run
        if run.run_id != self._begun:
            require_recent(context.step_context.instance, run, self._tables.values())
            self.lake.forget_metadata()
            self._begun = run.run_id

    def _load(self, table: Table, window: Window | None, wanted: Any) -> Any:
        if wanted is HoursOf:
            if window is None:
                raise dg.DagsterInvariantViolationError(f"HoursOf {table.name} needs an asset with hourly partitions.")
            return HoursOf(self.lake, window)
        snapshot = self.lake.open_or_create(table)
        if wanted is deltalake.DeltaTable:
            return snapshot.delta
        if _is_lazy_frame(wanted):
            return _scan_lazily(snapshot, window)
        rows = _stream(snapshot, window)
        return rows if wanted is pa.RecordBatchReader else rows.read_all()

    def _table(self, key: dg.AssetKey) -> Table:
        name = key.path[-1]
        if name not in self._tables:
            raise dg.DagsterInvariantViolationError(
                f"The Delta IO manager keeps {', '.join(self._tables)}, and no table for the asset {name}: give that "
                "asset an IO manager of its own."
            )
        return self._tables[name]


def _to_derivations(obj: Any, table: Table, entries: int) -> Iterable[Derivation]:
    """A list, but where their number shows at the end only."""
    if hasattr(obj, "in_parts"):
        return list(obj.in_parts(entries))
    if hasattr(obj, "build"):
        return [obj]
    if isinstance(obj, pa.RecordBatchReader):
        obj = obj.read_all()
    if isinstance(obj, pa.Table):
        return [Given(obj, table)]
    return (Given(part, table) if isinstance(part, pa.Table) else part for part in obj)


def numbers_of_run(last: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    """What a run did as a whole, from the metadata of its last partition."""
    if RANGE in last:
        return dict(cast(Any, last[RANGE].value))
    return {name: value.value for name, value in last.items()}


def add_partition_metadata(context: dg.OutputContext, by_partition: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives each partition of a range metadata of its own.

    As `AssetExecutionContext.add_asset_metadata` does, which for every single partition lists all of the range: in
    that of a year a tenth of a second each time.
    """
    step = context.step_context
    own: dict[Any, Mapping[str, Any]] = {
        AssetMetadataHandle(asset_key=context.asset_key, partition_key=key): numbers
        for key, numbers in by_partition.items()
    }
    before = step._metadata_accumulator.per_output_metadata
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata={**before, **own})


def _describe(results: list[Written]) -> dict[str, Any]:
    """What the writes did."""
    seconds = sum((result.seconds for result in results), Counter[str]())
    return {
        "rows_inserted": sum(result.inserted for result in results),
        "rows_updated": sum(result.updated for result in results),
        "rows_deleted": sum(result.deleted for result in results),
        "commits": sum(result.commits for result in results),
        "commits_lost": sum(result.conflicts for result in results),
        "bytes_written": sum(result.bytes_written for result in results),
        **{f"seconds/{stage}": round(spent, 3) for stage, spent in seconds.items()},
    }


def _describe_table(last: Written) -> dict[str, Any]:
    """The table after the writes."""
    return {
        "dagster/row_count": last.row_count,
        TABLE_VERSION: last.version,
        TABLE_ID: last.table_id,
        "table_size_bytes": last.size_bytes,
        "table_files": last.file_count,
    }


def _hour_column(snapshot: Snapshot) -> str:
    names = snapshot.table.schema.names
    return "windowStart" if "windowStart" in names else "lastModifiedTimestamp"


def _stream(snapshot: Snapshot, window: Window | None) -> pa.RecordBatchReader:
    """The table's rows of the window, a file at a time."""
    column = _hour_column(snapshot)

    def lies_within(rows: pa.Table) -> pa.ChunkedArray:
        return is_within(rows[column], window) if window else pc.is_valid(rows[column])

    batches = (batch for _, rows in snapshot.read(where=lies_within) for batch in rows.to_batches())
    return pa.RecordBatchReader.from_batches(snapshot.schema, batches)


def _is_lazy_frame(wanted: Any) -> bool:
    return getattr(wanted, "__module__", "").startswith("polars.") and wanted.__name__ == "LazyFrame"


def _scan_lazily(snapshot: Snapshot, window: Window | None) -> Any:
    """The table as a polars.LazyFrame; polars is the reader's own, and not needed otherwise."""
    import polars as pl

    frame = pl.scan_delta(snapshot.delta)
    if snapshot.service is not None:
        frame = frame.filter(pl.col(SERVICE.name) == snapshot.service).drop(SERVICE.name)
    time = pl.col(_hour_column(snapshot))
    return frame if window is None else frame.filter(time >= window.start, time < window.end)
