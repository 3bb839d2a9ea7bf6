"""Objects of a store as files that fetch only the bytes that are read."""

import io
from typing import Any

import obstore
from obstore.store import ObjectStore


class RangeFile(io.RawIOBase):
    """Object of a store as a file that is read range by range, each by one request."""

    def __init__(self, store: ObjectStore, path: str, size_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._path = path
        self._size = size_bytes
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as in any file, and return the new position in bytes from the start."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        """Return the current position in bytes from the start."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the next bytes.

        Returns:
            The number of bytes read, which may be less than the buffer's size; 0 at the end of the file.
        """
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        part = self.fetch(wanted)
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def fetch(self, wanted: int) -> bytes | memoryview:
        """Return the next bytes, from 1 to `wanted`, which are in the file."""
        return obstore.get_range(self._store, self._path, start=self._position, length=wanted).to_bytes()
