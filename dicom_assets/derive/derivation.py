"""Derivations: the rows that each table must hold for the keys that changed in a window, built from its sources."""

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
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE, build_healthcare_instances
from dicom_assets.core.tables.instance import build_instances, find_newest_entries, is_live
from dicom_assets.core.tables.merge import Desired, key_ids
from dicom_assets.core.tables.series import build_series
from dicom_assets.core.tables.study import build_studies
from dicom_assets.derive.elements import read_attributes
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot

_OWN = (*INSTANCE.key, "sequence", "windowStart")
_DECIDING = (*INSTANCE.key, "sequence", "ingestedAt", "action", "state")
_SUMMED_UP = ("seriesInstanceUid", "sequence", "modality", METADATA_UNREADABLE.name)
"""Columns of `instance` from which series and studies are built, beside the columns that both tables have."""
_ENDLESS = 2**63 - 1
_FILE = "_file"


@dataclass(frozen=True)
class HoursOf:
    """Changes of some hours: the keys that changed in them. A method call reads the lake; nothing is read before."""

    lake: Lake
    window: Window
    studies: pa.Array | None = None
    """UIDs of the studies whose changes are meant; None for all studies."""

    def in_parts(self, entries: int) -> Iterator["HoursOf"]:
        """Split the changes by study into parts of about `entries` entries; a study is never split.

        A study whose entries are stored after this call is in no part: the writer of these entries derives it.
        """
        feed = self.lake.open(CHANGE_FEED)
        files = [] if feed is None else feed.files_of_hours(self.window.start, self.window.end)
        if feed is None or sum(file.rows for file in files) <= entries:
            yield self
            return
        sizes: Counter[str] = Counter()
        concerns = partial(_concerns, window=self.window, studies=self.studies)
        for _, rows in feed.read(("studyInstanceUid", "windowStart"), files=files, where=concerns):
            for study in rows["studyInstanceUid"].value_counts():
                sizes[study["values"].as_py()] += study["counts"].as_py()
        held, size = [], 0
        for study, count in sizes.items():
            held.append(study)
            size += count
            if size >= entries:
                yield HoursOf(self.lake, self.window, pa.array(held))
                held, size = [], 0
        if held:
            yield HoursOf(self.lake, self.window, pa.array(held))

    def changed_keys(self, key: tuple[str, ...]) -> pa.Table:
        """Return the keys of the feed's entries in these hours, each once."""
        feed = self.lake.open(CHANGE_FEED)
        if feed is None:
            return pa.schema([CHANGE_FEED.schema.field(name) for name in key]).empty_table()
        rows = read_window(feed, self.window, (*key, "windowStart"), self.studies)
        return rows.select(key).group_by(list(key)).aggregate([])


def read_window(
    feed: Snapshot, window: Window, columns: tuple[str, ...] | None = None, studies: pa.Array | None = None
) -> pa.Table:
    """Return the window's rows of `change_feed`.

    Args:
        feed: a version of `change_feed`.
        window: the hours.
        columns: names, with `windowStart` among them; None for all columns.
        studies: UIDs of the studies whose rows are read; None for all studies.
    """
    files = feed.files_of_hours(window.start, window.end)
    return feed.read_table(columns, files=files, where=partial(_concerns, window=window, studies=studies))


def _concerns(rows: pa.Table, window: Window, studies: pa.Array | None) -> pa.ChunkedArray:
    inside = is_within(rows["windowStart"], window)
    return inside if studies is None else pc.and_(inside, _holds(rows, "studyInstanceUid", studies))


def is_within(times: pa.ChunkedArray, window: Window) -> pa.ChunkedArray:
    """Return for each time whether it lies in the window."""
    start, end = (pa.scalar(time, times.type) for time in (window.start, window.end))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))


def _holds(rows: pa.Table, column: str, values: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(rows[column], value_set=values)


BuildInstances = Callable[[pa.Table, pa.Table, Table], tuple[pa.Table, "Counter[str]"]]
"""Function from entries and their attributes to a table's rows, and to the number of unconverted values per column."""


class InstancesOfWindow:
    """Derivation of `instance`, or of another table of live instances, for the keys that changed in a window.

    For each key the newest extracted entry of any window decides. Entries outside the window are read from the window's
    least sequence on. So a repeated run of an old window restores neither a deleted instance nor an older path. An
    hourly run finds no such entries.
    """

    def __init__(self, hours: HoursOf, table: Table = INSTANCE, build_rows: BuildInstances = build_instances) -> None:
        """Create a derivation.

        Args:
            hours: the changes to derive from.
            table: `instance`, with the users' columns if they have any; or another table with one row per instance.
            build_rows: builds the table's rows.
        """
        self._hours = hours
        self._table = table
        self._build = build_rows
        self._version: Snapshot | None = None
        self.failures: Counter[str] = Counter()
        """Number of unconverted values per column, in the last `build`."""

    def in_parts(self, entries: int) -> "Iterator[InstancesOfWindow]":
        """Split the derivation by study into parts of about `entries` entries of the feed."""
        return (InstancesOfWindow(part, self._table, self._build) for part in self._hours.in_parts(entries))

    def build(self) -> Desired:
        """Return the window's keys, and the rows of the keys whose instance is live."""
        feed = self._hours.lake.open(CHANGE_FEED)
        self._version = feed
        self.failures = Counter()
        none = Desired(self._keys_of(CHANGE_FEED.schema.empty_table()), self._table.schema.empty_table())
        if feed is None:
            return none
        own = read_window(feed, self._hours.window, _OWN, self._hours.studies)
        if not len(own):
            return none
        least, studies, ids = pc.min(own["sequence"]), pc.unique(own["studyInstanceUid"]), key_ids(own, INSTANCE.key)
        del own  # an hour may have a million changes: these rows and the rows below must not be in memory together

        def concerns(rows: pa.Table) -> pa.ChunkedArray:
            recent = pc.greater_equal(rows["sequence"], least)
            return pc.and_(recent, pc.is_in(rows["studyInstanceUid"], value_set=studies))

        files = [file for file in feed.files if file.may_hold("sequence", least.as_py(), _ENDLESS)]
        places = {file.name: place for place, file in enumerate(files)}
        entries = pa.concat_tables(
            rows.append_column(_FILE, pa.repeat(places[file.name], len(rows)))
            for file, rows in feed.read(_DECIDING, files=files, where=concerns)
        )
        newest = find_newest_entries(entries.filter(pc.is_in(key_ids(entries, INSTANCE.key), value_set=ids)))
        live = newest.filter(is_live(newest)).select(["sequence", _FILE])
        return Desired(self._keys_of(newest), self._build_rows(feed, files, live))

    def is_current(self) -> bool:
        """Return whether no entry was stored since the last `build`."""
        return self._hours.lake.has_version(CHANGE_FEED, self._version)

    def _keys_of(self, entries: pa.Table) -> pa.Table:
        """Return the keys of the entries' instances, with the table's names of the key's columns."""
        fence = [self._table.fence] if self._table.fence else []
        return entries.select([*INSTANCE.key, *fence]).rename_columns([*self._table.key, *fence])

    def _build_rows(self, feed: Snapshot, files: list[DataFile], live: pa.Table) -> pa.Table:
        built = [self._table.schema.empty_table()]
        for place, file in enumerate(files):
            sequences = live["sequence"].filter(pc.equal(live[_FILE], place))
            if not len(sequences):
                continue
            for entries, attributes in self._read_entries(feed, file, sequences):
                rows, failures = self._build(entries, attributes, self._table)
                built.append(rows)
                self.failures += failures
        return pa.concat_tables(built)

    def _read_entries(self, feed: Snapshot, file: DataFile, sequences: pa.Array) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield a file's entries of some sequences, with attributes; metadata is read only if they are not cached."""
        wanted = partial(_holds, column="sequence", values=sequences)
        attributes = self._hours.lake.attributes.find(file.name, build_attributes_schema(self._table.attributes))
        if attributes is None:
            for _, entries in feed.read(files=[file], where=wanted):
                yield entries, read_attributes(entries, self._table)
            return
        schema = pa.schema([field for field in feed.schema if field.name != METADATA])
        entries = feed.folder.read(file, schema)
        own = wanted(entries)
        yield (entries, attributes) if pc.all(own).as_py() else (entries.filter(own), attributes.filter(own))


class AggregateOfWindow:
    """Derivation of a table that is a function of `instance`, for the keys that changed in a window."""

    def __init__(self, hours: HoursOf, table: Table, build_rows: Callable[[pa.Table], pa.Table]) -> None:
        """Create a derivation.

        Args:
            hours: the changes to derive from.
            table: `series`, `study` or `file_index`.
            build_rows: builds the table's rows for some keys from all rows of `instance` with these keys.
        """
        self._hours = hours
        self._table = table
        self._build_rows = build_rows
        self._version: Snapshot | None = None

    def in_parts(self, entries: int) -> "Iterator[AggregateOfWindow]":
        """Split the derivation by study into parts of about `entries` entries of the feed."""
        return (AggregateOfWindow(part, self._table, self._build_rows) for part in self._hours.in_parts(entries))

    def build(self) -> Desired:
        """Return the window's keys, and their rows."""
        keys = self._hours.changed_keys(self._table.key)
        instance = self._hours.lake.open(INSTANCE)
        self._version = instance
        if instance is None or not len(keys):
            return Desired(keys, self._table.schema.empty_table())
        studies = pc.unique(keys["studyInstanceUid"])
        of_studies = partial(_holds, column="studyInstanceUid", values=studies)
        names = [name for name in instance.schema.names if name in self._table.schema.names or name in _SUMMED_UP]
        instances = instance.read_table(names, files=instance.files_of_studies(studies), where=of_studies)
        concerned = pc.is_in(key_ids(instances, self._table.key), value_set=key_ids(keys, self._table.key))
        return Desired(keys, self._build_rows(instances.filter(concerned)))

    def is_current(self) -> bool:
        """Return whether no instance changed since the last `build`."""
        return self._hours.lake.has_version(INSTANCE, self._version)


def build_derivation(table: Table, hours: HoursOf, file_system: str | None) -> "InstancesOfWindow | AggregateOfWindow":
    """Return the derivation of a table, for the keys that changed in some hours.

    Args:
        table: any table except `change_feed`, with the users' columns.
        hours: the changes to derive from.
        file_system: prefix that makes a `filePath` a full location; None if unknown.
    """
    if table.name == INSTANCE.name:
        return InstancesOfWindow(hours, table)
    if table.name == HEALTHCARE_INSTANCE.name:
        return InstancesOfWindow(hours, table, build_healthcare_instances)
    build_rows = {
        SERIES.name: partial(build_series, table=table),
        STUDY.name: partial(build_studies, table=table),
        FILE_INDEX.name: partial(build_file_index, file_system=file_system),
    }
    return AggregateOfWindow(hours, table, build_rows[table.name])
