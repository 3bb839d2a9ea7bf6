"""Commits: the JSON files of a table's log, with the provenance that other Delta writers record too.

Source: Delta's protocol (actions, commit provenance) and the metrics that Delta on Spark writes.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction

from dicom_assets.lake.files.data_file import encode_path

MERGE, OPTIMIZE, SET_PROPERTIES, ADD_COLUMNS, CREATE = (
    "MERGE", "OPTIMIZE", "SET TBLPROPERTIES", "ADD COLUMN", "CREATE TABLE"
)  # fmt: skip
"""Names of operations in a table's history."""
PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}
"""Delta protocol of the tables that this project creates."""
_ENGINE = f"dicom-assets/{version('dicom_assets')}"


@dataclass(frozen=True)
class Commit:
    """Actions of one version, and their description in the table's history."""

    operation: str
    adds: Sequence[AddAction] = ()
    removes: Sequence[RemoveAction] = ()
    """Removed files; their paths are URI-encoded, as in the log."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, int] = field(default_factory=dict)
    others: Sequence[Mapping[str, Any]] = ()
    """Actions that change the table's metadata or protocol."""

    def encode(self, read_version: int | None = None) -> bytes:
        """Return the content of the commit's log file; a random `txnId` makes it unique.

        Args:
            read_version: version that the commit was planned on; None for a table's first commit.
        """
        info = {
            "timestamp": int(time.time() * 1000),
            "operation": self.operation,
            "operationParameters": dict(self.parameters),
            "isolationLevel": "Serializable",
            "isBlindAppend": False,
            "operationMetrics": {name: str(value) for name, value in self.metrics.items()},
            "engineInfo": _ENGINE,
            "txnId": str(uuid.uuid4()),
        }
        if read_version is not None:
            info["readVersion"] = read_version
        actions = [{"commitInfo": info}, *self.others]
        actions += [*map(_encode_add, self.adds), *map(_encode_removal, self.removes)]
        return "\n".join(json.dumps(each, separators=(",", ":"), allow_nan=False) for each in actions).encode()

    def count_rows_written(self) -> int:
        """Return the number of rows of the added files."""
        return sum(json.loads(add.stats)["numRecords"] for add in self.adds)


def describe_table(
    schema: pa.Schema, *, name: str, description: str, partition_by: Sequence[str], configuration: Mapping[str, str]
) -> dict[str, Any]:
    """Return the action that gives a new table its metadata."""
    return _metadata(
        id=str(uuid.uuid4()),
        name=name,
        description=description,
        schemaString=Schema.from_arrow(schema).to_json(),
        partitionColumns=list(partition_by),
        createdTime=int(time.time() * 1000),
        configuration=dict(configuration),
    )


def redescribe_table(
    delta: DeltaTable, *, columns: pa.Schema | None = None, configuration: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the action that adds columns or properties to a table's metadata and keeps everything else."""
    old, fields = delta.metadata(), delta.schema().fields
    if columns is not None:
        fields = [*fields, *Schema.from_arrow(columns).fields]
    return _metadata(
        id=str(old.id),
        name=old.name,
        description=old.description,
        schemaString=Schema(fields).to_json(),
        partitionColumns=old.partition_columns,
        createdTime=old.created_time,
        configuration={**old.configuration, **(configuration or {})},
    )


def _metadata(**described: object) -> dict[str, Any]:
    return {"metaData": {"format": {"provider": "parquet", "options": {}}, **described}}


def _encode_add(add: AddAction) -> dict[str, Any]:
    return {
        "add": {
            "path": encode_path(add.path),
            "partitionValues": dict(add.partition_values),
            "size": add.size,
            "modificationTime": add.modification_time,
            "dataChange": add.data_change,
            "stats": add.stats,
        }
    }


def _encode_removal(remove: RemoveAction) -> dict[str, Any]:
    return {
        "remove": {
            "path": remove.path,
            "deletionTimestamp": remove.deletion_timestamp,
            "dataChange": remove.data_change,
            "extendedFileMetadata": True,
            "partitionValues": dict(remove.partition_values or {}),
            "size": remove.size,
        }
    }
