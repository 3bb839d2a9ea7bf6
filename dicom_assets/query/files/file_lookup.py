"""Look-up of rows of `file_index` by UID, without reading the whole table.

The log has the range of UIDs of each file, by which files are skipped. If UIDs grow with time, the ranges exclude
nearly all files. If UIDs are random, every file's range may contain them; then the study's UID helps, since the files
that hold a study are known (`study_index.py`). From each remaining file, the column of SOP instance UIDs is read first.
The search never stops at the first match, since a UID may occur in several data partitions.
"""

from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import FILE_INDEX, KEY
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot

CONCURRENT_FILES = 8
"""Number of files of the table that are read at the same time."""
FEW_FILES = 16
"""Number of files up to which reading the files is faster than reading the index of studies."""
SOP_INSTANCE = "sopInstanceUid"
STUDY = "studyInstanceUid"


@dataclass(frozen=True)
class Lookup:
    """Result of a search in one version of `file_index`."""

    rows: pa.Table
    """Found rows, with the table's columns, in no order."""
    version: int
    files: int
    """Number of the table's files."""
    files_read: int
    """Number of files that were read for the search."""


def find_files(lake: Lake, keys: pa.Table) -> Lookup | None:
    """Return the rows of `file_index` that match one of the keys; None if the table does not exist.

    Args:
        lake: the lake of the table.
        keys: `sopInstanceUid`, with or without the other three columns of an instance's key; without nulls.

    Raises:
        LakeError: storage refuses, or another kind of table is at the table's place.
    """
    snapshot = lake.open(FILE_INDEX)
    if snapshot is None:
        return None
    names = [column.name for column in KEY if column.name in keys.column_names]
    uids = pc.unique(keys[SOP_INSTANCE]).cast(pa.string())
    candidates = _files_possibly_holding(snapshot, keys, uids)
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        parts = pool.map(lambda file: _read(snapshot, file, uids), candidates)
        found = pa.concat_tables([FILE_INDEX.schema.empty_table(), *parts])
    if len(names) > 1:
        wanted = pa.table({name: keys[name].cast(pa.string()) for name in names}).group_by(names).aggregate([])
        found = found.join(wanted, names, join_type="left semi")
    return Lookup(found, snapshot.version, len(snapshot.files), len(candidates))


def _files_possibly_holding(snapshot: Snapshot, keys: pa.Table, uids: pa.Array) -> Sequence[DataFile]:
    """Return the files that may hold one of the keys, by the log's ranges and the index of studies."""
    actions = snapshot.actions
    names = set(snapshot.names)
    for column, values in ((SOP_INSTANCE, uids), (STUDY, keys[STUDY] if STUDY in keys.column_names else None)):
        if values is not None and f"min.{column}" in actions.column_names:
            ordered = sorted(set(values.to_pylist()))
            ranges = (actions[name].to_pylist() for name in ("path", f"min.{column}", f"max.{column}"))
            names &= {unquote(path) for path, *ends in zip(*ranges, strict=True) if _any_between(ordered, *ends)}
    if STUDY in keys.column_names and len(names) > FEW_FILES:
        names &= {file.name for file in snapshot.files_of_studies(pc.unique(keys[STUDY]).cast(pa.string()))}
    return [file for file in snapshot.files if file.name in names]


def _any_between(ordered: Sequence[str], least: str | None, greatest: str | None) -> bool:
    """Return whether one of the sorted UIDs is in a range that includes both ends; True if the range is unknown."""
    if least is None or greatest is None:
        return True
    place = bisect_left(ordered, least)
    return place < len(ordered) and ordered[place] <= greatest


def _read(snapshot: Snapshot, file: DataFile, uids: pa.Array) -> pa.Table:
    """Return the file's rows with one of the UIDs; the other columns are read only if there is such a row."""

    def is_wanted(rows: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(rows[SOP_INSTANCE], value_set=uids)

    if next(snapshot.read([SOP_INSTANCE], files=[file], where=is_wanted), None) is None:
        return FILE_INDEX.schema.empty_table()
    return snapshot.read_table(FILE_INDEX.schema.names, files=[file], where=is_wanted)
