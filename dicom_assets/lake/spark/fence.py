"""Fence against a MERGE that a killed writer left running in Spark.

A writer that is killed, or gets no answer, leaves a MERGE running, and nobody checks the sources after that MERGE. Its
staged file shows this to the table's next writer, whatever the engine. The next writer deletes the file, so that the
MERGE cannot begin any more; changes the table's metadata, after which no running MERGE can commit; and then checks the
sources once more.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from dicom_assets.lake.spark.staging import Staging
from dicom_assets.lake.storage.storage import Storage

ISOLATION = {"delta.isolationLevel": "Serializable"}
"""Properties of a table that Spark merges. Databricks has a weaker isolation level by default, under which two writers
may insert one key."""
_FENCE = "dicomAssets.fence"


def is_isolated(properties: Mapping[str, str]) -> bool:
    """Return whether Spark merges a table, by the table's properties."""
    return properties.items() >= ISOLATION.items()


class Fence:
    """Fence of one table."""

    def __init__(self, storage: Storage, path: str) -> None:
        """Create the fence.

        Args:
            storage: storage of the lake.
            path: folder of the table, distinct among services that share it.
        """
        self.staging = Staging(storage, path)

    def list_unfinished(self, properties: Mapping[str, str]) -> list[str]:
        """Return the names of the files that writers staged who are at work or were killed.

        Args:
            properties: properties of the table.
        """
        return self.staging.names() if is_isolated(properties) else []

    def lock_out(self, names: Sequence[str]) -> dict[str, str]:
        """Delete staged files, so that no MERGE of them can begin.

        Returns:
            Properties of the table; once they are set, no MERGE that has begun can commit.
        """
        self.staging.delete(names)
        return {_FENCE: str(uuid.uuid4())}

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Let the next writer take over, if this process is killed or fails inside the block."""
        marker = self.staging.mark()
        yield
        self.staging.delete([marker])
