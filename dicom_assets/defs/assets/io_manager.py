"""The IO manager between assets and the lake's Delta tables.

The project has its own since dagster-delta's merge supports neither deletes nor a fence, and looks for a key in one
partition only.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import dagster as dg
import pyarrow as pa

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.defs.assets.data_version import set_data_version
from dicom_assets.defs.assets.inputs import load_table
from dicom_assets.defs.assets.preview import build_preview
from dicom_assets.defs.checks.failure import retrying
from dicom_assets.defs.checks.same_lake import TABLE_ID, TABLE_VERSION
from dicom_assets.defs.checks.same_version import require_recent
from dicom_assets.defs.partitions import partition_key
from dicom_assets.defs.runs.observed import Described, Observed, Reading
from dicom_assets.defs.runs.progress import Writing
from dicom_assets.defs.runs.resume import record_hours
from dicom_assets.lake.memory import release_memory
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import Derivation, FixedRows, Stopwatch, Written

RANGE = "range"
"""Metadata entry of a range's last partition: the numbers of the run as a whole."""


class DeltaIOManager(dg.IOManager):
    """IO manager that stores an asset's output in the Delta table of its key, and loads rows of the run's hours.

    An output is a `Derivation` (the rows that the table must hold for some keys), an Arrow table of rows, or an
    iterable of either, each written in a commit of its own. Rows of other keys stay unchanged, whatever the partition.

    The annotation of an input decides how the input is loaded: as one of the types in `inputs.LOADERS`, or as
    `FeedWindow`, for which nothing is read.
    """

    def __init__(self, lake: Lake, tables: Mapping[dg.AssetKey, Table], memory: MemoryLimit | None = None) -> None:
        """Create an IO manager.

        Args:
            lake: The lake that holds the tables.
            tables: Tables by asset key. An asset of any other key is refused, even if its name is a table's.
            memory: Memory limit for a derivation that can be split into parts; None means the default.
        """
        self.lake = lake
        self._tables = tables
        self._memory = memory or MemoryLimit()
        self._begun = ""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the output to the table, and add the numbers of the writes to the materialization's metadata."""
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
                results = results or [self.lake.write(table, FixedRows(table.schema.empty_table(), table))]
        except BaseException:  # also when the run is cancelled
            if isinstance(obj, Reading):
                record_hours(context, obj)
                obj.close()  # Dagster abandons the asset's generator while its client is open
            raise
        finally:
            release_memory()
        set_data_version(context, results)
        described = obj if isinstance(obj, Described) else None
        run = (described.describe_run() if described else {}) | _describe(results)
        run["seconds/cpu"] = round(time.process_time() - cpu, 3)
        state = _describe_table(results[-1])
        of_hours = described.describe_hours() if described else {}
        hours = {partition_key(start): numbers for start, numbers in of_hours.items()}
        if context.has_asset_partitions and len(keys := context.asset_partition_keys) > 1:
            hours[keys[-1]] = hours.get(keys[-1], {}) | state | {RANGE: {"hours": len(keys)} | run}
            for key, numbers in hours.items():  # 1 s for a range of a quarter, 10 s for a year
                context.step_context.add_asset_metadata(numbers, context.asset_key, key)
            return
        preview = build_preview(table.name, described.sample) if described and described.sample is not None else None
        of_hour = next(iter(hours.values()), {})
        context.add_output_metadata(state | run | of_hour | ({} if preview is None else {"preview": preview}))

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the table's rows of the run's hours, in the type that the input is annotated with."""
        table = self._table(context.asset_key)
        with retrying(context.step_context.previous_attempt_count):
            return load_table(context, self.lake, table)

    def _begin_run(self, context: dg.OutputContext) -> None:
        """Prepare for a run, once: all steps of a run are executed in this process."""
        run = context.step_context.dagster_run
        if run.run_id != self._begun:
            require_recent(context.step_context.instance, run, self._tables)
            self.lake.attributes.forget()
            self._begun = run.run_id

    def _table(self, key: dg.AssetKey) -> Table:
        if key not in self._tables:
            kept = ", ".join(kept.to_user_string() for kept in self._tables)
            raise dg.DagsterInvariantViolationError(
                f"This Delta IO manager keeps the tables of {kept}, and no table for the asset {key.to_user_string()}, "
                "so nothing was read or written. Give that asset another IO manager: leave out its io_manager_key for "
                "the default one."
            )
        return self._tables[key]


def _to_derivations(obj: Any, table: Table, entries: int) -> Iterable[Derivation]:
    """Return the derivations of an output: a list, or a generator where their number is not known before the end."""
    if isinstance(obj, Observed):
        return obj.in_parts(entries)
    if hasattr(obj, "build"):
        return [obj]
    if isinstance(obj, pa.RecordBatchReader):
        obj = obj.read_all()
    if isinstance(obj, pa.Table):
        return [FixedRows(obj, table)]
    return (FixedRows(part, table) if isinstance(part, pa.Table) else part for part in obj)


def numbers_of_run(last: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    """Return the numbers of a run as a whole, from the metadata of its last partition."""
    if RANGE in last:
        return dict(cast(Any, last[RANGE].value))
    return {name: value.value for name, value in last.items()}


def _describe(results: list[Written]) -> dict[str, Any]:
    """Return the sums of the writes' numbers, as metadata."""
    seconds = Stopwatch()
    for result in results:
        seconds.add(result.seconds)
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
    """Return the state of the table after the writes, as metadata."""
    return {
        "dagster/row_count": last.row_count,
        TABLE_VERSION: last.version,
        TABLE_ID: last.table_id,
        "table_size_bytes": last.size_bytes,
        "table_files": last.file_count,
    }
