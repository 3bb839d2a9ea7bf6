"""Rows of `file_index` by UID, without reading the whole table.

The log's ranges of UIDs leave out what they can: nearly all, where UIDs grow with time. Random UIDs are everywhere in
the range of every file; then the study's UID helps, since it is known which files hold a study (`study_index.py`). Of
the files that remain the column of SOP instance UIDs alone is read; of all of them, since the same UID may be in
several data partitions.
"""

from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.adapters.delta import Lake
from dicom_assets.adapters.parquet import DataFile
from dicom_assets.adapters.snapshot import Snapshot
from dicom_assets.core.schema import FILE_INDEX, KEY

CONCURRENT_FILES = 8
"""Files of the table that are read at the same time."""
FEW_FILES = 16
"""Files that are sooner looked into than the index of studies is read."""
SOP_INSTANCE = "sopInstanceUid"
STUDY = "studyInstanceUid"


@dataclass(frozen=True)
class Lookup:
    """What was found in a version of `file_index`."""

    rows: pa.Table
    """In the table's columns, in no order."""
    version: int
    files: int
    """The table's."""
    files_read: int


def find_files(lake: Lake, keys: pa.Table) -> Lookup | None:
    """The rows of `file_index` that match one of the keys; None where the table does not exist.

    Args:
        lake: of the table.
        keys: some of the four columns of an instance's key, the SOP instance UID among them; without nulls.

    Raises:
        LakeError: storage refuses, or the table is not ours.
    """
    snapshot = lake.open(FILE_INDEX)
    if snapshot is None:
        return None
    names = [column.name for column in KEY if column.name in keys.column_names]
    uids = pc.unique(keys[SOP_INSTANCE]).cast(pa.string())
    candidates = _candidates(snapshot, keys, uids)
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        parts = pool.map(lambda file: _read(snapshot, file, uids), candidates)
        found = pa.concat_tables([FILE_INDEX.schema.empty_table(), *parts])
    if len(names) > 1:
        wanted = pa.table({name: keys[name].cast(pa.string()) for name in names}).group_by(names).aggregate([])
        found = found.join(wanted, names, join_type="left semi")
    return Lookup(found, snapshot.version, len(snapshot.files), len(candidates))


def _candidates(snapshot: Snapshot, keys: pa.Table, uids: pa.Array) -> Sequence[DataFile]:
    """The files that may hold one of the keys, as far as that is known without opening them, or for less."""
    actions = snapshot.logged.actions
    names = set(map(unquote, actions["path"].to_pylist()))
    for column, values in ((SOP_INSTANCE, uids), (STUDY, keys[STUDY] if STUDY in keys.column_names else None)):
        if values is not None and f"min.{column}" in actions.column_names:
            ordered = sorted(set(values.to_pylist()))
            ranges = (actions[name].to_pylist() for name in ("path", f"min.{column}", f"max.{column}"))
            names &= {unquote(path) for path, *ends in zip(*ranges, strict=True) if _any_between(ordered, *ends)}
    if STUDY in keys.column_names and len(names) > FEW_FILES:
        names &= {file.name for file in snapshot.files_of_studies(pc.unique(keys[STUDY]).cast(pa.string()))}
    return [file for file in snapshot.files if file.name in names]


def _any_between(ordered: Sequence[str], least: str | None, greatest: str | None) -> bool:
    """Whether one of the UIDs lies in a range, both ends included; true where the range is not known."""
    if least is None or greatest is None:
        return True
    place = bisect_left(ordered, least)
    return place < len(ordered) and ordered[place] <= greatest


def _read(snapshot: Snapshot, file: DataFile, uids: pa.Array) -> pa.Table:
    """The file's rows with one of the UIDs; the other columns are read only where there is one."""

    def is_wanted(rows: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(rows[SOP_INSTANCE], value_set=uids)

    if next(snapshot.read([SOP_INSTANCE], files=[file], where=is_wanted), None) is None:
        return FILE_INDEX.schema.empty_table()
    return snapshot.read_table(FILE_INDEX.schema.names, files=[file], where=is_wanted)
