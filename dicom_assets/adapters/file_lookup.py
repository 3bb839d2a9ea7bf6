"""Rows of `file_index` by UID, without reading the whole table.

With the study's UID the files that hold the study are known (`study_index.py`). Without it the log's ranges of SOP
instance UIDs leave out what they can, and of the rest the column of SOP instance UIDs alone is read; all of it, since
the same UID may be in several data partitions.
"""

from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.adapters.delta import Lake, Snapshot
from dicom_assets.adapters.parquet import DataFile
from dicom_assets.core.schema import FILE_INDEX, KEY

CONCURRENT_FILES = 8
"""Files of the table that are read at the same time."""
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
    if STUDY in keys.column_names:
        return snapshot.files_of_studies(pc.unique(keys[STUDY]).cast(pa.string()))
    actions = pa.table(snapshot.delta.get_add_actions(flatten=True))
    if f"min.{SOP_INSTANCE}" not in actions.column_names:
        return snapshot.files
    ordered = sorted(uids.to_pylist())
    columns = (actions[name].to_pylist() for name in ("path", f"min.{SOP_INSTANCE}", f"max.{SOP_INSTANCE}"))
    names = {name for name, least, greatest in zip(*columns, strict=True) if _any_between(ordered, least, greatest)}
    return [file for file in snapshot.files if file.name in names]


def _any_between(ordered: Sequence[str], least: str | None, greatest: str | None) -> bool:
    """Whether one of the UIDs lies in a range, both ends included; true where the range is not known."""
    if least is None or greatest is None:
        return True
    place = bisect_left(ordered, least)
    return place < len(ordered) and ordered[place] <= greatest


def _read(snapshot: Snapshot, file: DataFile, uids: pa.Array) -> pa.Table:
    """The file's rows with one of the UIDs; the other columns are read only where there is one."""
    column = pa.schema([snapshot.schema.field(SOP_INSTANCE)])
    wanted = pc.is_in(snapshot.folder.read(file, column)[SOP_INSTANCE], value_set=uids)
    if not pc.any(wanted).as_py():
        return FILE_INDEX.schema.empty_table()
    return snapshot.folder.read(file, FILE_INDEX.schema).filter(wanted)
