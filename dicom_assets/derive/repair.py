"""Repair of rows that earlier versions of this project wrote: padding in UIDs and values, and unreadable metadata.

Earlier versions kept the padding that the service shows: one instance could have several rows, and a Delete missed
some of them. A table property marks tables that this version created or repaired; such tables need no
repair. A repair reads `change_feed` alone, never the service. After a kill the next repair does the rest: each step is
an ordinary write, and a repeated write gives equal rows.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.elements import trim_padding
from dicom_assets.core.columns.schema import CHANGE_FEED, KEY, Table
from dicom_assets.core.errors import LakeError
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.core.tables.comparison import is_padded
from dicom_assets.core.tables.merge import Desired
from dicom_assets.derive.derivation import Fixed, build_derivation
from dicom_assets.derive.feed_window import FeedWindow
from dicom_assets.lake.table.delta import Lake, trimmed_property
from dicom_assets.lake.table.foreign import check_can_be_written
from dicom_assets.lake.table.snapshot import Snapshot
from dicom_assets.lake.table.writing import FixedRows

logger = logging.getLogger(__name__)

_ALWAYS = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
_MAY_BE_PADDED = r'\\u0000|[\[{:,]\s*"[ "]| "\s*[\]}:,]|^[^{]'
"""Pattern of metadata with a NUL, a string that begins or ends with a blank, or an empty string; or of a text that is
not a JSON object. Outside of strings, blanks do not match."""


def is_due(lake: Lake, table: Table) -> bool:
    """Return whether a table may have rows of an earlier version."""
    snapshot = _open_writable(lake, table)
    return snapshot is not None and not snapshot.configuration.get(trimmed_property(lake.scope))


def _open_writable(lake: Lake, table: Table) -> Snapshot | None:
    """Return the newest version of a table; None where there is none, or none that may be written.

    The table's own upkeep reports the reason. The repair of other tables goes on.
    """
    try:
        snapshot = lake.open(table)
        if snapshot is not None:
            check_can_be_written(snapshot)
    except LakeError:
        return None
    return snapshot


@dataclass(frozen=True)
class Repair:
    """Repair of the rows that earlier versions wrote to a lake's tables."""

    lake: Lake
    tables: Sequence[Table]
    """All tables that are kept, with the users' columns."""
    file_system: str | None
    """Prefix that makes a full location of a `filePath`; None where it is not known."""
    entries: int = MemoryLimit().entries
    """Approximate number of feed entries from which a table is derived at a time."""

    def find_due(self) -> list[Table]:
        """Return the tables that may have rows of an earlier version."""
        return [table for table in self.tables if is_due(self.lake, table)]

    def run(self) -> Counter[str]:
        """Repair all tables; return the number of changed rows by table, empty where no repair was due.

        Raises:
            LakeError: as in `Lake.write`.
        """
        due, changed = self.find_due(), Counter[str]()
        if not due or _open_writable(self.lake, CHANGE_FEED) is None:
            return changed
        logger.info("Rows of an earlier version are repaired in %s.", ", ".join(table.name for table in due))
        changed[CHANGE_FEED.name] = _trim_feed(self.lake)
        studies = _find_studies(self.lake)
        for table in due:
            if table.name != CHANGE_FEED.name:
                changed[table.name] = self._derive_anew(table, studies)
        for table in due:
            self.lake.set_properties(table, {trimmed_property(self.lake.scope): "true"})
        return +changed

    def _derive_anew(self, table: Table, studies: pa.Array) -> int:
        """Delete a table's rows with padded keys, and derive the rows of their studies and of others again.

        Args:
            table: table to repair.
            studies: UIDs of further studies.

        Returns:
            The number of changed rows.
        """
        lake = self.lake
        padded = lake.open_or_create(table).read_table(table.merge_columns, where=is_padded)
        studies = pc.unique(pa.concat_arrays([studies, trim_padding(padded[table.study].combine_chunks())]))
        changed = lake.write(table, Fixed(Desired(padded, table.schema.empty_table()))).deleted if len(padded) else 0
        return changed + (self._derive(table, FeedWindow(lake, _ALWAYS, studies)) if len(studies) else 0)

    def derive(self, changes: FeedWindow) -> None:
        """Derive the rows of all other existing tables for the keys of some entries of `change_feed`."""
        for table in self.tables:
            if table.name != CHANGE_FEED.name and self.lake.open(table) is not None:
                self._derive(table, changes)

    def _derive(self, table: Table, changes: FeedWindow) -> int:
        changed = 0
        for part in changes.split(self.entries):
            written = self.lake.write(table, build_derivation(table, part, self.file_system))
            changed += written.inserted + written.updated + written.deleted
        return changed


def _trim_feed(lake: Lake) -> int:
    """Remove the padding from the keys in `change_feed`; return the number of changed rows."""
    feed, key, changed = lake.open_or_create(CHANGE_FEED), [column.name for column in KEY], 0
    for _, rows in feed.read(where=lambda rows: is_padded(rows.select(key))):
        trimmed = rows
        for name in (*key, "action", "state", "filePath"):
            place = rows.column_names.index(name)
            trimmed = trimmed.set_column(place, rows.schema.field(name), trim_padding(rows[name]))
        changed += lake.write(CHANGE_FEED, FixedRows(trimmed, CHANGE_FEED)).updated
    return changed


def _find_studies(lake: Lake) -> pa.Array:
    """Return the UIDs of the studies whose rows an earlier version may have derived differently."""
    feed = lake.open_or_create(CHANGE_FEED)
    found: set[str] = set()
    for _, rows in feed.read(["studyInstanceUid", "metadata"], where=_may_differ):
        found.update(pc.unique(rows["studyInstanceUid"]).to_pylist())
    return pa.array(sorted(found), pa.string())


def _may_differ(rows: pa.Table) -> pa.ChunkedArray:
    # A Delete has no metadata. With padding in its key it may have missed the row of its instance.
    return pc.fill_null(pc.match_substring_regex(rows["metadata"], _MAY_BE_PADDED), True)
