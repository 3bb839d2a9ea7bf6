"""The job that keeps the tables small: scheduled daily, and a dry run if a person launches it."""

from typing import Any

import dagster as dg
from pydantic import Field

from dicom_assets.core.columns.schema import Table
from dicom_assets.defs.checks.failure import retrying
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.derive.repair import Repair
from dicom_assets.lake.upkeep import Upkeep, maintain


class UpkeepConfig(dg.Config):
    """Options of the job."""

    dry_run: bool = Field(True, description="True to report the steps without doing them.")


def build_upkeep_job(repair: Repair, naming: Naming = PLAIN) -> dg.JobDefinition:
    """Return the job `maintain_lake`. The job has a step per table, so that runs can write between."""
    ops = [_build_op(repair, table, naming) for table in repair.tables]

    @dg.config_mapping
    def for_every_step(config: UpkeepConfig) -> dict[str, Any]:
        return {"ops": {op.name: {"config": {"dry_run": config.dry_run}} for op in ops}}

    @dg.job(
        name=naming.name("maintain_lake"),
        executor_def=dg.in_process_executor,
        description="Joins small files, rewrites files with dates that Spark 3.5 refuses, deletes files and log "
        "entries that are older than DICOM_RETENTION_HOURS, and reports the size of the tables. A dry run by default; "
        "its schedule sets `dry_run` to false.",
        config=for_every_step,
    )
    def maintain_lake() -> None:
        for op in ops:
            op()

    return maintain_lake


def _build_op(repair: Repair, table: Table, naming: Naming) -> dg.OpDefinition:
    # Upkeep is correct while others write, too. It waits for the pool since a lost commit means work done twice.
    @dg.op(
        name=naming.name(f"maintain_{table.name}"),
        out=dg.Out(dg.Nothing),
        pool=naming.pool,
        tags={"dagster/compute_kind": "deltalake"},
    )
    def maintain_table(context: dg.OpExecutionContext, config: UpkeepConfig) -> dg.Output[None]:
        """Maintain one table. The numbers are also recorded on the asset, where Dagster plots them."""
        with retrying(context.retry_number):
            repaired = None if config.dry_run else repair.run()
            done = maintain(repair.lake, table, dry_run=config.dry_run)
        if done is None:
            context.log.info("%s has no table yet.", table.name)
            return dg.Output(None, metadata={"dry_run": config.dry_run})
        metadata = describe(done, dry_run=config.dry_run)
        if repaired:
            metadata["rows_repaired"] = repaired.total()
            context.log.info("Rows of earlier versions were repaired: %s", dict(repaired))
        context.log.info("%s: %s", table.name, metadata["summary"])
        if not done.is_complete:
            context.log.warning("Other writers committed first: the rest of %s is left to the next run.", table.name)
        if not config.dry_run:
            context.log_event(dg.AssetObservation(naming.key(table), metadata=metadata))
        return dg.Output(None, metadata={"dry_run": config.dry_run, **metadata})

    return maintain_table


def describe(done: Upkeep, *, dry_run: bool) -> dict[str, Any]:
    """Return the upkeep as a sentence and as numbers; numbers of the table have the names that runs' events use.

    The order matters: Dagster's UI shows the first seven entries until the user asks for more.
    """
    before, after = done.before, done.after
    return {
        "summary": _summarize(done, dry_run=dry_run),
        "oldest_version": done.oldest_version,
        "table_files": after.live_files,
        "table_size_bytes": after.live_bytes,
        "stored_files": after.stored_files,
        "stored_size_bytes": after.stored_bytes,
        "log_files": after.log_files,
        "table_version": after.version,
        "table_files_before": before.live_files,
        "table_size_bytes_before": before.live_bytes,
        "stored_files_before": before.stored_files,
        "stored_size_bytes_before": before.stored_bytes,
        "log_files_before": before.log_files,
        "files_joined": done.joined_files,
        "files_joined_into": done.joined_into,
        "files_marked_for_spark": done.files_marked_for_spark,
        "files_removed": done.removed_files,
        "bytes_removed": done.removed_bytes,
        "log_files_removed": done.removed_log_files,
        "oldest_version_since": done.oldest_since.isoformat(timespec="seconds"),
        "is_complete": done.is_complete,
    }


def _summarize(done: Upkeep, *, dry_run: bool) -> str:
    joined = f"{done.joined_files} files joined into {done.joined_into}" if done.joined_files else "no files joined"
    if done.files_marked_for_spark:
        joined += f"; {done.files_marked_for_spark} files with dates before 1582 written anew for Spark 3.5"
    removed = (
        f"{done.removed_files} files ({done.removed_bytes:,} bytes) and {done.removed_log_files} log entries removed"
    )
    return (
        f"{'Dry run, nothing was changed. It would be: ' if dry_run else ''}{joined}; {removed}. Versions can be read "
        f"from {done.oldest_version} on, which is of {done.oldest_since:%Y-%m-%d %H:%MZ}."
    )
