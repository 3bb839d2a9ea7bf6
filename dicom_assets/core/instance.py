"""Change feed entries folded into live instances."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.dicom_json import UNREADABLE, count_failures
from dicom_assets.core.fold import newest_rows
from dicom_assets.core.schema import INSTANCE, METADATA_UNREADABLE, Table


def newest_entries(entries: pa.Table) -> pa.Table:
    """The entry that decides about each instance: of the greatest sequence, of equal sequences the one read last.

    Args:
        entries: rows of `change_feed`, at least its key, `sequence` and `ingestedAt`; any order, any repetition.
    """
    return newest_rows(entries, INSTANCE.key, ["sequence", "ingestedAt"])


def is_live(entries: pa.Table) -> pa.ChunkedArray:
    """For each entry whether its instance exists after it: it is no Delete, and was not deleted when it was read."""
    deleting = pc.equal(pc.utf8_lower(entries["action"]), "delete")
    return pc.invert(pc.or_(deleting, pc.equal(pc.utf8_lower(entries["state"]), "deleted")))


def unreadable_entries(entries: pa.Table) -> pa.Table:
    """Return the entries of live instances without metadata, or with metadata that is no JSON object.

    Args:
        entries: rows of `change_feed`, at least `action`, `state` and `metadata`.
    """
    is_object = pc.fill_null(pc.starts_with(entries["metadata"], "{"), False)
    if pc.all(is_object).as_py():
        return entries.slice(0, 0)
    return entries.filter(pc.and_(pc.invert(is_object), is_live(entries)))


def build_instances(entries: pa.Table, attributes: pa.Table, table: Table = INSTANCE) -> tuple[pa.Table, Counter[str]]:
    """Return one row per entry, each the newest of a live instance.

    Args:
        entries: rows of `change_feed`, one per instance; their metadata is not looked at.
        attributes: of each of them, as `build_attributes` gives them.
        table: `instance`, with the users' columns if they have any.

    Returns:
        Rows of the `instance` table, in the entries' order, and the values per column that could not be converted.
    """
    rows = entries.select([*INSTANCE.key, "sequence", "timestamp", "filePath"]).rename_columns(
        {"timestamp": "lastModifiedTimestamp"}
    )
    for column in table.attributes:
        rows = rows.append_column(column.arrow, attributes[column.name])
    marks = pc.if_else(attributes[UNREADABLE], True, pa.scalar(None, pa.bool_()))  # null, as in rows of older versions
    rows = rows.append_column(METADATA_UNREADABLE.name, marks)
    return rows.select(table.schema.names).cast(table.schema), count_failures(attributes)
