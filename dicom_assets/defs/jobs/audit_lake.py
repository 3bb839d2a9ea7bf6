"""The job that audits the whole lake: every row against its source rows, and against Dagster's history.

It is a job, not an asset check, since an asset check runs whenever its asset is materialised, and reading every key of
the lake would slow each hour's run. A fault that it finds fails it, so that the alert on failed runs reports the fault.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import dagster as dg

from dicom_assets.core.columns.schema import CHANGE_FEED, Table
from dicom_assets.core.errors import DicomAssetsError, DisagreementError, LakeLostError
from dicom_assets.core.tables.comparison import Agreement
from dicom_assets.defs.checks.checks import check_metadata, describe_agreement
from dicom_assets.defs.checks.failure import fail
from dicom_assets.defs.checks.same_lake import REMEDY, find_lost_hours, require_same_lake
from dicom_assets.defs.checks.specs import CHECKS, METADATA_READABLE
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.derive.agreement import audit
from dicom_assets.derive.heal import Healed
from dicom_assets.lake.table.delta import Lake


def build_audit(
    lake: Lake, tables: Sequence[Table], naming: Naming = PLAIN, ask_again: Callable[[], Healed] | None = None
) -> dg.JobDefinition:
    """Return the job that compares every row with its source rows, and reports to the checks of the assets.

    Args:
        lake: The lake that holds the tables.
        tables: All tables of the lake.
        naming: Names of the service's parts.
        ask_again: Requests metadata that the service could not give before; None to skip this.
    """

    @dg.op(name=naming.name("audit_all_rows"), out=dg.Out(dg.Nothing))
    def audit_all_rows(context: dg.OpExecutionContext) -> None:
        """Read all keys, some files at a time; write only metadata that the service could not give before."""
        try:
            require_same_lake(context.instance, lake, tables, naming)
        except LakeLostError as error:
            fail(error)
        if ask_again is not None:
            _heal(context, ask_again, naming)
        lost = _describe_lost(find_lost_hours(context.instance, lake, naming))
        found = audit(lake, tables)
        disagreeing = {name: agreement for name, agreement in found.items() if not agreement.is_complete}
        busy = bool(disagreeing) and _is_another_run_under_way(context, naming)
        for name, agreement in found.items():
            _report(context, naming.key(name), agreement, busy=busy)
        if lost:
            fail(LakeLostError(f"{lost} {REMEDY}"))
        if disagreeing and not busy:
            fail(
                DisagreementError(
                    f"The audit found rows that do not agree in {', '.join(disagreeing)}. {_explain(busy)}"
                ),
                {name: describe_agreement(agreement) for name, agreement in disagreeing.items()},
            )

    @dg.job(
        name=naming.name("audit_lake"),
        executor_def=dg.in_process_executor,
        description="Compares all rows of the lake with their source rows, and with the numbers in Dagster's history. "
        "Reads every key, which takes minutes for tens of millions of instances. Reports to the checks of the assets.",
    )
    def audit_lake() -> None:
        audit_all_rows()

    return audit_lake


def _report(context: dg.OpExecutionContext, asset: dg.AssetKey, agreement: Agreement, *, busy: bool) -> None:
    """Report the agreement of one table to the first check of its asset, and log it."""
    name, numbers = asset.path[-1], describe_agreement(agreement)
    description = "Audit of all rows: " + ("all agree." if agreement.is_complete else _explain(busy))
    context.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=CHECKS[name][0].name,
            passed=agreement.is_complete,
            severity=dg.AssetCheckSeverity.WARN if busy else dg.AssetCheckSeverity.ERROR,
            description=description,
            metadata=numbers,
        )
    )
    context.log.info("%s: %s %s", name, description, numbers)


def _heal(context: dg.OpExecutionContext, ask_again: Callable[[], Healed], naming: Naming) -> None:
    """Request metadata that the service could not give before, and report the entries that still lack it."""
    try:
        healed = ask_again()
    except DicomAssetsError as error:
        context.log.warning("The service did not return metadata that is missing. %s", error)
        return
    if healed.healed:
        context.log.info("%d entries that had no usable metadata have it now.", healed.healed)
    result = check_metadata(len(healed.unreadable), healed.unreadable, healed=healed.healed)
    context.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=naming.key(CHANGE_FEED.name),
            check_name=METADATA_READABLE,
            passed=result.passed,
            severity=result.severity,
            description=f"Audit: {result.description}",
            metadata=result.metadata,
        )
    )


def _describe_lost(hours: list[datetime]) -> str | None:
    if not hours:
        return None
    first, last = (f"{hour:%Y-%m-%d %H:%MZ}" for hour in (hours[0], hours[-1]))
    return (
        f"change_feed lacks entries that were stored, of {len(hours):,} hours between {first} and {last}: they were "
        "deleted, or the table is another one, or restored to an earlier version."
    )


def _explain(busy: bool) -> str:
    if busy:
        return "Rows do not agree, but runs are under way that may be about to write them. Run the audit again later."
    return (
        "Rows do not agree. Materialise the asset for the hours that were materialised upstream; if that does not "
        "help, for all hours."
    )


def _is_another_run_under_way(context: dg.OpExecutionContext, naming: Naming) -> bool:
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    runs = context.instance.get_runs(dg.RunsFilter(statuses=statuses))
    return any(run.run_id != context.run_id and naming.owns(run, context.instance) for run in runs)
