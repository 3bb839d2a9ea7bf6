"""Index of the studies in each file of a table, so that a run need not read every file to find a few instances.

A data file never changes and its name is never used again, so an index entry stays true. The index is kept in memory,
and in an index file beside the table that Delta does not know. Where the index file is missing, old or broken, the
data files are read. The index file is used only if its checksum matches: Arrow trusts what it reads, so a flipped bit
could hide a study from a merge, or end the process.

Of a table with 1,000 files on a local disk, reading the files takes 1.2 s of a core, the index file 0.04 s.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.errors import LakeUnavailableError
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.folder import Files

NAME = "_studies/index.arrow"
"""Path of the index file below the table's folder; Delta ignores names that begin with an underscore."""

UNKNOWN_FILES = 4
"""Files without an index entry, at most, for which the index file is neither read nor written."""

LIMIT = 4_000_000
"""Study UIDs kept in memory, at most."""

_MAGIC = b"dicom-assets studies 2\n"
"""First bytes of the index file. The checksum of the remaining content follows, then that content."""

logger = logging.getLogger(__name__)


class StudyIndex:
    """Index of the studies in the files of a lake's tables."""

    def __init__(self) -> None:
        self._studies: dict[str, pa.Array] = {}

    def find(self, folder: Files, files: Sequence[DataFile], column: pa.Field, studies: pa.Array) -> list[DataFile]:
        """Return the files that hold one of the studies.

        Args:
            folder: folder of the table.
            files: all live files of the table.
            column: column of the table with the study instance UIDs.
            studies: study instance UIDs to find.
        """
        if sum(map(len, self._studies.values())) > LIMIT:
            self._studies = {}
        known = self._studies
        if sum(file.name not in known for file in files) > UNKNOWN_FILES:
            known.update(_load(folder))
        unknown = [file for file in files if file.name not in known]

        def read(file: DataFile) -> pa.Array:
            rows = folder.read(file, pa.schema([column]), dictionaries=[column.name])
            return pc.unique(rows[column.name]).cast(pa.string())

        with ThreadPoolExecutor() as pool:
            known.update(zip((file.name for file in unknown), pool.map(read, unknown), strict=True))
        if len(unknown) > UNKNOWN_FILES:
            _save(folder, {file.name: known[file.name] for file in files})
        return [file for file in files if pc.any(pc.is_in(known[file.name], value_set=studies)).as_py()]

    def of_file(self, file: DataFile) -> pa.Array | None:
        """Return the study instance UIDs in a file; None where the index has no entry for it."""
        return self._studies.get(file.name)


def _load(folder: Files) -> dict[str, pa.Array]:
    """Return the entries of the index file, by file name; empty where the index file is missing or damaged."""
    try:
        content = folder.read_aside(_name(folder))
        payload = None if content is None else _verify(content)
        if payload is None:
            return {}
        index = pa.ipc.open_file(pa.py_buffer(payload)).read_all().combine_chunks()
        studies = index["studies"].chunk(0)
        return {name: studies[place].values for place, name in enumerate(index["name"].to_pylist())}
    except Exception as error:  # any damage: the data files are read instead
        logger.info("The index of studies is made anew: %s.", type(error).__name__)
        return {}


def _verify(content: bytes) -> bytes | None:
    """Return the content that follows the checksum; None where the checksum does not match."""
    start = len(_MAGIC) + hashlib.sha256().digest_size
    payload = content[start:]
    return payload if content[:start] == _MAGIC + hashlib.sha256(payload).digest() else None


def _save(folder: Files, studies: dict[str, pa.Array]) -> None:
    values = list(studies.values())
    offsets = pa.array([0, *pc.cumulative_sum(pa.array(map(len, values))).to_pylist()], pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.concat_arrays(values))
    index = pa.table({"name": pa.array(studies.keys(), pa.string()), "studies": lists})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, index.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(index)
    payload = sink.getvalue().to_pybytes()
    with suppress(LakeUnavailableError):  # it only saves time
        folder.write_aside(_name(folder), _MAGIC + hashlib.sha256(payload).digest() + payload)


def _name(folder: Files) -> str:
    """Return the path of the index file; each service that shares a table has its own."""
    return f"_studies/{folder.scope.service}.arrow" if folder.scope.is_shared else NAME
