"""The folder of the service's DICOM files, laid out as in Data Lake Storage."""

import zlib
from pathlib import Path

from dicom_assets.emulator.metadata.data_set import Metadata, build_dataset, encode, read_dataset, tolerant


class FileStore:
    """DICOM files under `AHDS/{workspace}/dicom/{service}/{partition}/` in a folder; without a folder, only paths."""

    def __init__(self, root: Path | None, workspace: str, service: str) -> None:
        self.root = root
        self._prefix = f"AHDS/{workspace}/dicom/{service}"

    def path(self, partition: str, version: int) -> str:
        """Return the path of a version's file, relative to the file system. Every version has its own file."""
        # The hash spreads names over the storage's partitions; its value has no meaning.
        spread = f"{zlib.crc32(str(version).encode()):08x}"[:3]
        return f"{self._prefix}/{partition}/{spread}_{version}.dcm"

    def write(self, path: str, content: bytes) -> None:
        """Write a file; do nothing where there is no folder."""
        target = self._at(path)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def rewrite(self, old: str, new: str, changes: Metadata) -> None:
        """Write a copy of a file with changed elements; do nothing where the old file does not exist."""
        source = self._at(old)
        if source is None or not source.exists():
            return
        self.write(new, _change(source.read_bytes(), changes))

    def remove(self, path: str | None) -> None:
        """Delete a file if it exists."""
        target = self._at(path) if path else None
        if target is not None:
            target.unlink(missing_ok=True)

    def _at(self, path: str) -> Path | None:
        return self.root / path if self.root else None


def _change(content: bytes, changes: Metadata) -> bytes:
    """Return a file's bytes with changed elements, or the unchanged bytes where pydicom cannot write them."""
    try:
        dataset = read_dataset(content)
        with tolerant():
            dataset.update(build_dataset(changes))
        return encode(dataset)
    except Exception:  # pydicom raises anything on values of broken files
        return content
