"""The folder in which the service keeps DICOM files, as it would in Data Lake Storage."""

import zlib
from pathlib import Path

from dicom_assets.emulator.metadata import Metadata, build_dataset, decode, encode, tolerant


class FileStore:
    """Files under `AHDS/{workspace}/dicom/{service}/{partition}/`, in a folder or, without one, as names only."""

    def __init__(self, root: Path | None, workspace: str, service: str) -> None:
        self.root = root
        self._prefix = f"AHDS/{workspace}/dicom/{service}"

    def path(self, partition: str, version: int) -> str:
        """The path of a version's file, relative to the file system. Every version has its own."""
        # The hash spreads names over the storage's partitions; its value means nothing.
        return f"{self._prefix}/{partition}/{zlib.crc32(str(version).encode()):08x}"[:-5] + f"_{version}.dcm"

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        target = self._at(path)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def rewrite(self, old: str, new: str, changes: Metadata) -> None:
        """Write a copy of a file with elements changed. Nothing is written where there is no old file."""
        source = self._at(old)
        if source is None or not source.exists():
            return
        self.write(new, _change(source.read_bytes(), changes))

    def remove(self, path: str | None) -> None:
        """Remove a file, if there is one."""
        target = self._at(path) if path else None
        if target is not None:
            target.unlink(missing_ok=True)

    def _at(self, path: str) -> Path | None:
        return self.root / path if self.root else None


def _change(content: bytes, changes: Metadata) -> bytes:
    """Return a file with elements changed, or the file as it is where pydicom can keep but not write it."""
    try:
        dataset = decode(content)
        with tolerant():
            dataset.update(build_dataset(changes))
        return encode(dataset)
    except Exception:  # pydicom raises anything on values of broken files
        return content
