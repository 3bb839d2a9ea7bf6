"""Checks of the rows that a run wrote, executed in the step that wrote them.

The checks of an asset therefore run whichever other assets run with it, and the pool keeps other writers out until the
checks are done. A check reads only what the run touched, so its cost does not grow with the lake; the whole lake is
checked by `jobs/audit_lake.py`. Rows of other hours may be out of date, since assets may be run one by one and in any
order: that is a warning, which blocks nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dicom_assets.core.columns.schema import CHANGE_FEED, Table
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.core.tables.comparison import Agreement
from dicom_assets.defs.checks.specs import (
    AGREES_WITH_CHANGE_FEED,
    AGREES_WITH_INSTANCE,
    DEMANDED,
    FEED_COMPLETE,
    METADATA_READABLE,
    TOLERATED_SHARE,
    VALUES_CONVERTED,
)
from dicom_assets.defs.runs.observed import Observed
from dicom_assets.derive.agreement import compare_instances, compare_touched
from dicom_assets.derive.counts import CountedFeed, recount
from dicom_assets.lake.table.delta import Lake

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN

NAMED_SEQUENCES = 20
"""Most sequences that a check lists."""


def check_feed(feed: CountedFeed, lake: Lake, window: Window, read: Mapping[Any, int]) -> dg.AssetCheckResult:
    """Check that the table holds all entries of the window, both those that were read and those the service has.

    Args:
        feed: Counts the service's entries.
        lake: The lake that holds `change_feed`.
        window: The window that was read.
        read: Number of entries that were read, by hour.
    """
    table = lake.open_or_create(CHANGE_FEED)
    found = recount(feed, table, window, read)
    broken = found.doubled or found.lost or found.vanished
    said = [
        (found.lost, f"{found.lost} entries were read and are not stored: materialise these hours again."),
        (found.doubled, f"{found.doubled} entries have more than one row: another program wrote this table."),
        (
            found.vanished,
            f"{len(found.vanished)} stored entries are unknown to the service: is DICOM_SERVICE_URL that of another "
            "service, or was it restored from a backup?",
        ),
        (
            found.missing and not found.lost,
            f"{len(found.missing)} entries arrived after the hours were read: materialise these hours again.",
        ),
        (found.error, f"The service did not return its count. {found.error}"),
    ]
    description = " ".join(text for is_so, text in said if is_so)
    return dg.AssetCheckResult(
        check_name=FEED_COMPLETE,
        passed=not description,
        severity=ERROR if broken else WARN,
        description=description or "Every entry is stored, once.",
        metadata={
            "window": str(window),
            "stored": found.stored,
            "lost": found.lost,
            "doubled": found.doubled,
            "missing": len(found.missing),
            "vanished": len(found.vanished),
            **_name_sequences("missing_sequences", found.missing, len(found.missing)),
            **_name_sequences("vanished_sequences", found.vanished, len(found.vanished)),
        },
    )


def check_metadata(unreadable: int, sequences: Sequence[int], **facts: Any) -> dg.AssetCheckResult:
    """Check that all entries of live instances came with their metadata.

    Args:
        unreadable: Number of entries without usable metadata.
        sequences: Sequences of some of these entries.
        facts: More metadata for the result.
    """
    described = describe_unreadable(unreadable)
    return dg.AssetCheckResult(
        check_name=METADATA_READABLE,
        passed=not unreadable,
        severity=WARN,
        description=described,
        metadata={"unreadable": unreadable, **_name_sequences("unreadable_sequences", sequences, unreadable), **facts},
    )


def describe_unreadable(unreadable: int) -> str:
    """Describe entries without usable metadata: what they mean, and what to do about them.

    Args:
        unreadable: Number of entries without usable metadata.
    """
    if not unreadable:
        return "The service returned the metadata of every live instance."
    return (
        f"The service returned no metadata, or no DICOM JSON, for {unreadable} entries. They are stored without it, so "
        "their instances have no attributes; all others are complete. Later readings and audit_lake request the "
        "metadata again. If that does not help, give the sequences to the service's operator."
    )


def check_instances(lake: Lake, window: Window, written: Observed, table: Table) -> dg.AssetCheckResult:
    """Check a table of live instances against the rows that were derived for the instances changed in the window."""
    found = sum((compare_instances(lake, desired, table) for desired in written.take_kept()), Agreement())
    description, settled = "Every instance that changed has the row of its newest entry.", True
    if not found.is_complete:
        settled = written.is_current()
        description = f"Rows of {table.name} that this run wrote do not agree with change_feed: {_what_to_do(settled)}"
    return dg.AssetCheckResult(
        check_name=AGREES_WITH_CHANGE_FEED,
        passed=found.is_complete,
        severity=ERROR if settled or found.doubled else WARN,
        description=description,
        metadata={"window": str(window), **describe_agreement(found), **_name_rest(written)},
    )


def check_values(observed: Observed, window: Window) -> dg.AssetCheckResult:
    """Check that the values of the run's rows could be converted to the types of their columns."""
    rows = observed.rows or 1
    failed = {name: round(count / rows, 4) for name, count in observed.failures.items()}
    nulls = {name: round(count / rows, 4) for name, count in observed.nulls.items() if count}
    beyond = sorted({name for name, share in failed.items() if share > TOLERATED_SHARE})
    absent = [name for name in DEMANDED if nulls.get(name, 0) > TOLERATED_SHARE]
    said = [
        (beyond, f"Values that cannot be converted: {', '.join(beyond)}. They are null; the feed keeps them as sent."),
        (absent, f"Values that every instance must have are absent: {', '.join(absent)}."),
    ]
    description = " ".join(text for is_so, text in said if is_so)
    return dg.AssetCheckResult(
        check_name=VALUES_CONVERTED,
        passed=not description,
        severity=WARN,
        description=description or "Values could be converted to the types of their columns.",
        metadata={
            "window": str(window),
            "rows": observed.rows,
            "bound": f"{TOLERATED_SHARE:.0%}",
            "failed_shares": failed,
            "null_shares": nulls,
        },
    )


def check_agreement(lake: Lake, window: Window, written: Observed, table: Table) -> dg.AssetCheckResult:
    """Check that a table agrees with `instance` for the studies that changed in the window."""
    own = whole = Agreement()
    for desired in written.take_kept():
        of_own, of_all = compare_touched(lake, desired.keys, table)
        own, whole = own + of_own, whole + of_all
    settled = own.is_complete or written.is_current()
    if not own.is_complete:
        description = f"Rows of {table.name} that this run wrote do not agree with instance: {_what_to_do(settled)}"
    elif not whole.is_complete:
        description = (
            f"Rows of {table.name} in the same studies do not agree with instance. They belong to other hours: "
            f"materialise {table.name} for the hours for which instance was materialised."
        )
    else:
        description = "The rows of the studies of these hours agree with instance."
    return dg.AssetCheckResult(
        check_name=AGREES_WITH_INSTANCE,
        passed=whole.is_complete,
        severity=ERROR if (not own.is_complete and settled) or whole.doubled else WARN,
        description=description,
        metadata={
            "window": str(window),
            **describe_agreement(whole),
            "of_these_hours": own.faults,
            **_name_rest(written),
        },
    )


def describe_agreement(found: Agreement) -> dict[str, int]:
    """Return the counts of an agreement, as metadata."""
    return {
        "rows_expected": found.expected,
        "missing": found.missing,
        "orphans": found.orphans,
        "different": found.different,
        "doubled": found.doubled,
        **({"padded": found.padded} if found.padded else {}),
    }


def _name_rest(written: Observed) -> dict[str, int]:
    return {"rows_left_to_the_audit": written.rows_not_kept} if written.rows_not_kept else {}


def _name_sequences(name: str, sequences: Sequence[int], total: int) -> dict[str, str]:
    named = ", ".join(map(str, sequences[:NAMED_SEQUENCES]))
    more = total - min(len(sequences), NAMED_SEQUENCES)
    return {name: named + (f" and {more} more" if more > 0 else "")} if sequences else {}


def _what_to_do(settled: bool) -> str:
    if settled:
        return "materialise these hours again; if that does not help, restore the table to an earlier version."
    return "another run wrote their source meanwhile, and will write this table next."
