"""Where the lake lies: a local folder or a file system of Azure Data Lake Storage."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import obstore
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from dicom_assets.core.errors import LakeUnavailableError


def _no_options() -> dict[str, str]:
    return {}


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
        """Location of a table, as delta-rs wants it."""
        return str(Path(self.url).absolute() / path) if self.is_local else f"{self.url.rstrip('/')}/{path}"

    def open_store(self, path: str) -> ObjectStore:
        """The table's folder, for its files."""
        if self.is_local:
            return LocalStore(self.uri(path), mkdir=True)
        return from_url(self.uri(path), config=cast(Any, self.options()))

    def open_file(self, store: ObjectStore, path: str, name: str) -> BinaryIO | str:
        """A table's file, for pyarrow: a path where it is local, else an object that reads ranges."""
        return f"{self.uri(path)}/{name}" if self.is_local else cast(BinaryIO, obstore.open_reader(store, name))

    @contextmanager
    def explained(self, path: str, doing: str) -> Iterator[None]:
        """Storage's refusals inside become a LakeUnavailableError that says what was being done, and where.

        A lost commit and an absent table pass: they are answers, not refusals.
        """
        try:
            yield
        except (CommitFailedError, TableNotFoundError):
            raise
        except (OSError, DeltaError, BaseError) as error:
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
