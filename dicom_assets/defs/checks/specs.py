"""Names and descriptions of the asset checks, by table."""

from typing import NamedTuple

import dagster as dg

from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE

FEED_COMPLETE = "feed_complete"
METADATA_READABLE = "metadata_readable"
AGREES_WITH_CHANGE_FEED = "agrees_with_change_feed"
VALUES_CONVERTED = "values_converted"
AGREES_WITH_INSTANCE = "agrees_with_instance"

TOLERATED_SHARE = 0.05
"""Share of a run's rows in which a column's value may fail to convert, or be absent where DICOM requires it."""

DEMANDED = ("sopClassUid", "modality")
"""Columns of elements that every instance must have (Type 1 in DICOM PS3.3)."""


class Check(NamedTuple):
    """An asset check."""

    name: str
    description: str
    blocking: bool = False
    """True if a failure keeps the rest of the run from starting."""


CHECKS = {
    "change_feed": [
        Check(
            FEED_COMPLETE,
            "Every entry that the service has of the run's hours is stored, once. Fails, and blocks the other tables, "
            "if an entry that was read is missing or stored twice, or a stored entry is unknown to the service. Warns "
            "if entries arrived after the reading.",
            blocking=True,
        ),
        Check(
            METADATA_READABLE,
            "The service returned the metadata of every live instance of the run's hours. Warns with the sequences of "
            "entries that are stored without metadata: their instances have no attributes until a later reading or "
            "the nightly audit gets the metadata.",
        ),
    ],
    "instance": [
        Check(
            AGREES_WITH_CHANGE_FEED,
            "Every instance that changed in the run's hours has exactly one row, from its newest entry, or no row if "
            "that entry is a delete. Blocks the tables that are derived from this one.",
            blocking=True,
        ),
        Check(
            VALUES_CONVERTED,
            f"At most {TOLERATED_SHARE:.0%} of the run's rows have a value that could not be converted to its column's "
            f"type, or no value in {' and '.join(DEMANDED)}.",
        ),
    ],
    **{
        name: [
            Check(
                AGREES_WITH_INSTANCE,
                "In the studies that changed in the run's hours, every row has instances, every instance has a row, "
                "counts are right, and no key has two rows. Warns of rows that belong to other hours.",
            )
        ]
        for name in ("series", "study", "file_index")
    },
    HEALTHCARE_INSTANCE.name: [
        Check(
            AGREES_WITH_CHANGE_FEED,
            "Every instance that changed in the run's hours has exactly one row, or no row if it was deleted.",
        )
    ],
}
"""Checks by table. The nightly audit reports to the first check of each table."""


def build_specs(table: str, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a table's asset."""
    return [
        dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
        for check in CHECKS[table]
    ]
