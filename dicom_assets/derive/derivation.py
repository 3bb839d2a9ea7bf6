"""Derivations: the rows that each table must hold for the keys that changed in a window, built from its sources."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.dicom_json import METADATA, build_attributes_schema
from dicom_assets.core.columns.schema import (
    CHANGE_FEED,
    FILE_INDEX,
    INSTANCE,
    METADATA_UNREADABLE,
    SERIES,
    STUDY,
    Table,
)
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE, build_healthcare_instances
from dicom_assets.core.tables.instance import build_instances, find_newest_entries, is_live
from dicom_assets.core.tables.merge import Desired, key_ids
from dicom_assets.core.tables.series import build_series
from dicom_assets.core.tables.study import build_studies
from dicom_assets.derive.elements import read_attributes
from dicom_assets.derive.feed_window import FeedWindow, holds, read_window
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.parquet import EncodedRows
from dicom_assets.lake.table.snapshot import Snapshot

_OWN = (*INSTANCE.key, "sequence", "windowStart")
_DECIDING = (*INSTANCE.key, "sequence", "ingestedAt", "action", "state")
_SUMMED_UP = ("seriesInstanceUid", "sequence", "modality", METADATA_UNREADABLE.name)
"""Columns of `instance` from which series and studies are built, beside the columns that both tables have."""
_ENDLESS = 2**63 - 1
_FILE = "_file"


BuildInstances = Callable[[pa.Table, pa.Table, Table], tuple[pa.Table, "Counter[str]"]]
"""Function from entries and their attributes to a table's rows, and to the number of unconverted values per column."""


@dataclass(frozen=True)
class Fixed:
    """A derivation without sources: its rows cannot become outdated."""

    desired: Desired | EncodedRows

    def build(self) -> Desired | EncodedRows:
        """Return the rows."""
        return self.desired

    def is_current(self) -> bool:
        """Return True."""
        return True


class WindowDerivation(ABC):
    """Derivation of one table from a source table, for the keys that changed in a window of the feed."""

    failures: Counter[str] | None = None
    """Number of unconverted values per column, in the last `build`; None where nothing is converted."""

    def __init__(self, changes: FeedWindow, table: Table, source: Table) -> None:
        self._changes = changes
        self._table = table
        self._source = source
        self._version: Snapshot | None = None

    @abstractmethod
    def build(self) -> Desired:
        """Return the keys that changed in the window, and their rows."""

    def is_current(self) -> bool:
        """Return whether the source table is unchanged since the last `build`."""
        return self._changes.lake.has_version(self._source, self._version)

    def _open_source(self) -> Snapshot | None:
        """Open the source table's newest version, and remember it for `is_current`."""
        self._version = self._changes.lake.open(self._source)
        return self._version


class InstanceDerivation(WindowDerivation):
    """Derivation of `instance`, or of another table of live instances, from `change_feed`.

    For each key the newest extracted entry of any window decides. Entries outside the window are read from the window's
    least sequence on. So a repeated run of an old window restores neither a deleted instance nor an older path. An
    hourly run finds no such entries.
    """

    def __init__(
        self, changes: FeedWindow, table: Table = INSTANCE, build_rows: BuildInstances = build_instances
    ) -> None:
        """Create a derivation.

        Args:
            changes: entries whose instances are derived.
            table: `instance`, with the users' columns if they have any; or another table with one row per instance.
            build_rows: builds the table's rows.
        """
        super().__init__(changes, table, CHANGE_FEED)
        self._build_rows = build_rows
        self.failures = Counter()

    def build(self) -> Desired:
        """Return the keys of the instances that changed, and the rows of the live instances among them."""
        self.failures = Counter()
        nothing = Desired(self._keys_of(CHANGE_FEED.schema.empty_table()), self._table.schema.empty_table())
        feed = self._open_source()
        if feed is None:
            return nothing
        own = read_window(feed, self._changes.window, _OWN, self._changes.studies)
        if not len(own):
            return nothing
        least, studies, ids = pc.min(own["sequence"]), pc.unique(own["studyInstanceUid"]), key_ids(own, INSTANCE.key)
        del own  # an hour may have a million changes: these rows and the rows below must not be in memory together

        def may_decide(rows: pa.Table) -> pa.ChunkedArray:
            return pc.and_(pc.greater_equal(rows["sequence"], least), holds(rows, "studyInstanceUid", studies))

        files = [file for file in feed.files if file.may_hold("sequence", least.as_py(), _ENDLESS)]
        numbers = {file.name: number for number, file in enumerate(files)}
        entries = pa.concat_tables(
            rows.append_column(_FILE, pa.repeat(numbers[file.name], len(rows)))
            for file, rows in feed.read(_DECIDING, files=files, where=may_decide)
        )
        newest = find_newest_entries(entries.filter(pc.is_in(key_ids(entries, INSTANCE.key), value_set=ids)))
        live = newest.filter(is_live(newest)).select(["sequence", _FILE])
        built = [self._table.schema.empty_table()]
        for number, file in enumerate(files):
            sequences = live["sequence"].filter(pc.equal(live[_FILE], number))
            for entries, attributes in self._read_entries(feed, file, sequences) if len(sequences) else ():
                rows, failures = self._build_rows(entries, attributes, self._table)
                built.append(rows)
                self.failures += failures
        return Desired(self._keys_of(newest), pa.concat_tables(built))

    def _keys_of(self, entries: pa.Table) -> pa.Table:
        """Return the keys of the entries' instances, with the table's names of the key's columns."""
        fence = [self._table.fence] if self._table.fence else []
        return entries.select([*INSTANCE.key, *fence]).rename_columns([*self._table.key, *fence])

    def _read_entries(self, feed: Snapshot, file: DataFile, sequences: pa.Array) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield a file's entries of some sequences, with attributes; metadata is read only if they are not cached."""
        wanted = partial(holds, column="sequence", values=sequences)
        attributes = self._changes.lake.attributes.find(file.name, build_attributes_schema(self._table.attributes))
        if attributes is None:
            for _, entries in feed.read(files=[file], where=wanted):
                yield entries, read_attributes(entries, self._table)
            return
        schema = pa.schema([field for field in feed.schema if field.name != METADATA])
        entries = feed.folder.read(file, schema)
        own = wanted(entries)
        yield (entries, attributes) if pc.all(own).as_py() else (entries.filter(own), attributes.filter(own))


class AggregateDerivation(WindowDerivation):
    """Derivation of a table that is a function of `instance`."""

    def __init__(self, changes: FeedWindow, table: Table, build_rows: Callable[[pa.Table], pa.Table]) -> None:
        """Create a derivation.

        Args:
            changes: entries whose keys are derived.
            table: `series`, `study` or `file_index`.
            build_rows: builds the table's rows for some keys from all rows of `instance` with these keys.
        """
        super().__init__(changes, table, INSTANCE)
        self._build_rows = build_rows

    def build(self) -> Desired:
        """Return the keys that changed, and their rows."""
        keys = self._changes.changed_keys(self._table.key)
        instance = self._open_source()
        if instance is None or not len(keys):
            return Desired(keys, self._table.schema.empty_table())
        studies = pc.unique(keys["studyInstanceUid"])
        of_studies = partial(holds, column="studyInstanceUid", values=studies)
        names = [name for name in instance.schema.names if name in self._table.schema.names or name in _SUMMED_UP]
        instances = instance.read_table(names, files=instance.files_of_studies(studies), where=of_studies)
        concerned = pc.is_in(key_ids(instances, self._table.key), value_set=key_ids(keys, self._table.key))
        return Desired(keys, self._build_rows(instances.filter(concerned)))


def build_derivation(table: Table, changes: FeedWindow, file_system: str | None) -> WindowDerivation:
    """Return the derivation of a table, for the keys that changed in a window.

    Args:
        table: any table except `change_feed`, with the users' columns.
        changes: entries whose keys are derived.
        file_system: prefix that makes a `filePath` a full location; None if unknown.
    """
    if table.name == INSTANCE.name:
        return InstanceDerivation(changes, table)
    if table.name == HEALTHCARE_INSTANCE.name:
        return InstanceDerivation(changes, table, build_healthcare_instances)
    build_rows = {
        SERIES.name: partial(build_series, table=table),
        STUDY.name: partial(build_studies, table=table),
        FILE_INDEX.name: partial(build_file_index, file_system=file_system),
    }
    return AggregateDerivation(changes, table, build_rows[table.name])
