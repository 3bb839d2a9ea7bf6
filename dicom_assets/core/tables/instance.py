"""Change feed entries folded into live instances."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.dicom_json import UNREADABLE, count_failures
from dicom_assets.core.columns.schema import INSTANCE, METADATA_UNREADABLE, Table
from dicom_assets.core.tables.fold import find_newest_rows


def find_newest_entries(entries: pa.Table) -> pa.Table:
    """Return the newest entry of each instance: the greatest sequence, and of equal sequences the last one read.

    Args:
        entries: rows of `change_feed`, with at least the key of `instance`, `sequence` and `ingestedAt`, in any order
            and with any repetition.
    """
    return find_newest_rows(entries, INSTANCE.key, ["sequence", "ingestedAt"])


def is_live(entries: pa.Table) -> pa.ChunkedArray:
    """Return for each entry whether its instance is live: the action is not Delete, and the state not Deleted."""
    deleting = pc.equal(pc.utf8_lower(entries["action"]), "delete")
    return pc.invert(pc.or_(deleting, pc.equal(pc.utf8_lower(entries["state"]), "deleted")))


def find_unreadable_entries(entries: pa.Table) -> pa.Table:
    """Return sequence, time, action and state of the live instances' entries whose metadata is not a JSON object.

    Args:
        entries: rows of `change_feed`.
    """
    is_object = pc.starts_with(entries["metadata"], "{")
    found = entries.select(["sequence", "timestamp", "action", "state"])
    if pc.all(is_object, skip_nulls=False).as_py():
        return found.slice(0, 0)
    found = found.filter(pc.fill_null(pc.invert(is_object), True))
    return found.filter(is_live(found))


def build_instances(entries: pa.Table, attributes: pa.Table, table: Table = INSTANCE) -> tuple[pa.Table, Counter[str]]:
    """Return one row per entry.

    Args:
        entries: rows of `change_feed`: the newest entry of each live instance. Their metadata is not read.
        attributes: attributes of the entries, in their order, as `build_attributes` gives them.
        table: `instance`, with the users' columns, if any.

    Returns:
        Rows of the `instance` table, in the order of the entries, and the number of values that could not be
        converted, by column.
    """
    rows = entries.select([*INSTANCE.key, "sequence", "timestamp", "filePath"]).rename_columns(
        {"timestamp": "lastModifiedTimestamp"}
    )
    for column in table.attributes:
        rows = rows.append_column(column.arrow, attributes[column.name])
    # Null instead of False, as in rows that older versions of the project wrote.
    marks = pc.if_else(attributes[UNREADABLE], True, pa.scalar(None, pa.bool_()))
    rows = rows.append_column(METADATA_UNREADABLE.name, marks)
    return rows.select(table.schema.names).cast(table.schema), count_failures(attributes)
