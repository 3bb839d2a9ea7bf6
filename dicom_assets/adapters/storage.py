"""Where the lake lies: a local folder or a file system of Azure Data Lake Storage."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from dicom_assets.adapters.credentials import Credential
from dicom_assets.core.errors import LakeUnavailableError

STORAGE_SCOPE = "https://storage.azure.com/.default"
"""Scope of the tokens for Azure storage, whatever the account."""


_KNOWN_HOSTS = (".core.windows.net", ".fabric.microsoft.com")
_OBSTORE_NAMES = {"bearer_token": "token"}
"""What obstore calls an option, where it differs from delta-rs."""


def _no_options() -> dict[str, str]:
    return {}


def azure_options(credential: Credential | None, account: str, endpoint: str | None) -> dict[str, str]:
    """Options of delta-rs and obstore for an account, with a token that is good for the next operation.

    Args:
        credential: whatever hands out tokens and keeps them until they expire. Without one delta-rs and obstore look
            into the environment for a key (AZURE_STORAGE_ACCOUNT_KEY) or a SAS token.
        account: the storage account.
        endpoint: of an emulator on this machine, the account included; None for Azure.
    """
    options = {"account_name": account}
    if endpoint is not None:
        options |= {"endpoint": endpoint, "allow_http": "true"}
    if credential is not None:
        options["bearer_token"] = credential.get_token(STORAGE_SCOPE).token
    return options


class RangeFile(io.RawIOBase):
    """An object of a store, read range by range."""

    def __init__(self, store: ObjectStore, name: str, size_bytes: int) -> None:
        self._store = store
        self._name = name
        self._size = size_bytes
        self._place = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place, as files do."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with one request."""
        length = min(len(buffer), self._size - self._place)
        if length <= 0:
            return 0
        buffer[:length] = obstore.get_range(self._store, self._name, start=self._place, length=length).to_bytes()
        self._place += length
        return length


@dataclass(frozen=True)
class Storage:
    """A folder of tables, and what it takes to reach it."""

    url: str
    """A local path, or `abfss://fileSystem@account.dfs.core.windows.net`."""
    options: Callable[[], dict[str, str]] = _no_options
    """Gives the options of delta-rs and obstore; asked before every operation, since tokens expire."""

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.url

    def uri(self, path: str) -> str:
        """Location of a table, for people."""
        return str(Path(self.url).absolute() / path) if self.is_local else f"{self.url.rstrip('/')}/{path}"

    def address(self, path: str) -> tuple[str, dict[str, str]]:
        """URL and options of a table, for delta-rs and obstore: by itself they know hosts of the public cloud only."""
        url, options = urlsplit(self.url), dict(self.options())
        host = str(url.hostname)
        if self.is_local or host.endswith(_KNOWN_HOSTS):
            return self.uri(path), options
        return f"az://{url.username}/{path}", {"endpoint": f"https://{host.replace('.dfs.', '.blob.', 1)}"} | options

    def open_store(self, path: str) -> ObjectStore:
        """The table's folder, for its files."""
        if self.is_local:
            return LocalStore(self.uri(path), mkdir=True)
        address, options = self.address(path)
        http = {"allow_http": options.pop("allow_http", None) == "true"}
        config = {_OBSTORE_NAMES.get(name, name): value for name, value in options.items()}
        return from_url(address, config=cast(Any, config), client_options=cast(Any, http))

    def open_file(self, store: ObjectStore, path: str, name: str, size_bytes: int) -> "RangeFile | str":
        """A table's file, for pyarrow: a path where it is local, else an object that reads ranges."""
        return f"{self.uri(path)}/{name}" if self.is_local else RangeFile(store, name, size_bytes)

    @contextmanager
    def explained(self, path: str, doing: str) -> Iterator[None]:
        """Storage's refusals inside become a LakeUnavailableError that says what was being done, and where.

        A lost commit and an absent table pass: they are answers, not refusals.
        """
        try:
            yield
        except (CommitFailedError, TableNotFoundError):
            raise
        except (OSError, DeltaError, BaseError, pa.ArrowInvalid) as error:
            raise LakeUnavailableError(
                f"Could not {doing} {self.uri(path)}: {_reason(error)}. "
                + (
                    "Check that DICOM_STORAGE_URL names a folder this user may write to, with space left."
                    if self.is_local
                    else "Check DICOM_STORAGE_URL and DICOM_CONTAINER_NAME, and that the identity has the "
                    '"Storage Blob Data Contributor" role on the account.'
                )
            ) from error


def _reason(error: Exception) -> str:
    """The first line of the message, short: the rest of it is a trace of requests."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")
