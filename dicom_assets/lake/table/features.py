"""Allow-list of the parts of Delta's protocol that a table may use so that this project can read and write the table.

The project's tables have reader version 1 and writer version 2, and use no table feature. Another engine may have
enabled features. By the protocol, a feature that is supported but not in use demands nothing of a writer. A feature in
use, and anything that this module does not know, is an obstacle; an obstacle names the command that removes it.

Source: `PROTOCOL.md` of delta-io/delta at commit bb1057f, and the properties that Delta on Spark, Databricks and Fabric
set.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from dicom_assets.core.errors import ForeignTableError

READER_VERSION, WRITER_VERSION = 3, 7
"""Newest protocol versions that this module knows; from these versions on, features have names."""


@dataclass(frozen=True)
class Protocol:
    """Demands of a table on its readers and writers."""

    reader_version: int
    writer_version: int
    reader_features: frozenset[str]
    writer_features: frozenset[str]
    properties: Mapping[str, str]
    schema: pa.Schema

    @property
    def features(self) -> frozenset[str]:
        """Features of readers and of writers."""
        return self.reader_features | self.writer_features


@dataclass(frozen=True)
class Obstacle:
    """A part of the protocol that keeps this project from writing a table, or from reading it."""

    found: str
    """Description of the obstacle, with the reason."""
    commands: tuple[str, ...] = ()
    """Spark SQL commands that remove the obstacle; empty if no command does."""
    hinders_readers: bool = False


def explain_unknown(error: str, uri: str) -> ForeignTableError | None:
    """Return the error for a table that delta-rs does not open since it does not know one of the table's features.

    Args:
        error: text of delta-rs's error.
        uri: location of the table.

    Returns:
        The error to raise; None if delta-rs's error has another cause.
    """
    if not (found := _UNKNOWN.search(error)):
        return None
    feature = found["feature"] or "catalogManaged"
    return ForeignTableError(
        f"The table at {uri} was changed by another engine: it uses the feature {feature}, which is not known here, so "
        "that it can neither be read nor written. Nothing was written. To take that off, run in Spark: ALTER TABLE "
        f"delta.`{uri}` DROP FEATURE `{feature}`. Where that is refused, or the table is not yours, move it away."
    )


_UNKNOWN = re.compile(r"Feature '(?P<feature>[\w.-]+)' is not supported|catalog-managed table")


def is_log_protected(protocol: Protocol) -> bool:
    """Return whether the table demands that old log entries are kept. Such a table demands nothing else by this."""
    kept = protocol.properties.get("delta.enableExpiredLogCleanup", "true").lower() == "false"
    return kept or "checkpointProtection" in protocol.features


def find_obstacles(protocol: Protocol, table: str) -> list[Obstacle]:
    """Return the obstacles to writing a table.

    Args:
        protocol: the table's protocol.
        table: the table's name in Spark SQL.
    """
    alter = f"ALTER TABLE {table}"
    return [
        *_of_versions(protocol),
        *_of_features(protocol, alter),
        *_of_properties(protocol, alter),
        *_of_columns(protocol.schema, alter, table),
    ]


def _of_versions(protocol: Protocol) -> Iterator[Obstacle]:
    if protocol.reader_version > READER_VERSION or protocol.writer_version > WRITER_VERSION:
        found = f"it is of reader version {protocol.reader_version} and writer version {protocol.writer_version}"
        yield Obstacle(f"{found}, which are not known here", hinders_readers=protocol.reader_version > READER_VERSION)


# A listed feature of these demands nothing by itself: properties and columns show whether it is in use.
_USED_ELSEWHERE = frozenset(
    {
        "allowColumnDefaults", "appendOnly", "changeDataFeed", "checkConstraints", "checkpointProtection",
        "columnMapping", "generatedColumns", "identityColumns", "inCommitTimestamp", "inCommitTimestamp-preview",
        "invariants", "timestampNtz", "typeWidening", "typeWidening-preview",
    }
)  # fmt: skip
_REASONS = {
    "clustering": "is clustered (liquid clustering), and writers must keep its files clustered",
    "coordinatedCommits-preview": "leaves its commits to a coordinator",
    "catalogManaged": "leaves its commits to a catalog",
    "deletionVectors": "has deletion vectors, without which deleted rows would come back",
    "domainMetadata": "has domain metadata, which writers must carry on",
    "icebergCompatV1": "is kept readable for Iceberg",
    "icebergCompatV2": "is kept readable for Iceberg",
    "icebergCompatV3": "is kept readable for Iceberg",
    "rowTracking": "has row tracking, by which writers must number all rows",
    "v2Checkpoint": "has checkpoints of version 2 (V2)",
    "vacuumProtocolCheck": "has a check of its protocol before VACUUM",
    "variantType": "has the type VARIANT",
}
_UNDROPPABLE = (
    "clustering", "icebergCompatV1", "icebergCompatV2", "icebergCompatV3", "variantType", "variantType-preview"
)  # fmt: skip
_READERS_NEED_NOTHING = ("v2Checkpoint", "vacuumProtocolCheck")
"""Reader features that delta-rs can read, or that demand nothing of a reader."""


def _of_features(protocol: Protocol, alter: str) -> Iterator[Obstacle]:
    features = protocol.features
    # Other features need domainMetadata, so it is dropped last. Clustering cannot be dropped, and keeps it.
    for name in sorted(features - _USED_ELSEWHERE, key=lambda name: (name == "domainMetadata", name)):
        if name == "domainMetadata" and "clustering" in features:
            continue
        reason = _REASONS.get(name, "has a feature that is not known here")
        commands = () if name in _UNDROPPABLE else (f"{alter} DROP FEATURE `{name}`",)
        hinders_readers = name in protocol.reader_features and name not in _READERS_NEED_NOTHING
        yield Obstacle(f"it {reason} (feature {name})", commands, hinders_readers)


_HARMLESS = frozenset(
    f"delta.{name}".lower()
    for name in (
        "autoOptimize", "autoOptimize.autoCompact", "autoOptimize.optimizeWrite", "checkpointInterval",
        "checkpointRetentionDuration", "columnMapping.maxColumnId", "dataSkippingNumIndexedCols",
        "dataSkippingStatsColumns", "dataSkippingStringPrefixLength", "deletedFileRetentionDuration",
        "dropFeatureTruncateHistory.retentionDuration", "enableExpiredLogCleanup", "enableFullRetentionRollback",
        "inCommitTimestampEnablementTimestamp", "inCommitTimestampEnablementVersion", "isolationLevel",
        "lastCommitTimestamp", "lastUpdateVersion", "logRetentionDuration", "minReaderVersion", "minWriterVersion",
        "parquet.compression.codec", "parquet.format.version", "parquet.vorder.default", "parquet.vorder.enabled",
        "randomPrefixLength", "randomizeFilePrefixes", "requireCheckpointProtectionBeforeVersion",
        "rowTracking.materializedRowCommitVersionColumnName", "rowTracking.materializedRowIdColumnName",
        "rowTrackingSuspended", "sampleRetentionDuration", "setTransactionRetentionDuration", "targetFileSize",
        "tuneFileSizesForRewrites",
    )
)  # fmt: skip
"""Properties that demand nothing of a writer, or nothing that changes the table's rows."""
_HARMLESS_VALUES = {
    "delta.appendonly": ("false", "it is append-only, and rows must change and go"),
    "delta.checkpoint.writestatsasjson": ("true", "its checkpoints are to have no statistics as JSON"),
    "delta.checkpoint.writestatsasstruct": ("false", "its checkpoints are to have statistics as columns"),
    "delta.compatibility.symlinkformatmanifest.enabled": ("false", "it has manifests, which would grow stale"),
    "delta.enablechangedatacapture": ("false", "its change data feed is on, and no change data are written here"),
    "delta.enablechangedatafeed": ("false", "its change data feed is on, and no change data are written here"),
    "delta.enableicebergcompatv1": ("false", "it is kept readable for Iceberg"),
    "delta.enableicebergcompatv2": ("false", "it is kept readable for Iceberg"),
    "delta.enableicebergcompatv3": ("false", "it is kept readable for Iceberg"),
    "delta.enableincommittimestamps": ("false", "its commits must carry in-commit timestamps"),
    "delta.enablematerializepartitioncolumnsfeature": ("false", "its files must have the partition's columns"),
    "delta.enablevariantshredding": ("false", "it has the type VARIANT"),
    "delta.writepartitioncolumnstoparquet": ("false", "its files must have the partition's columns"),
}
"""By property name in lower case: the value that demands nothing, and the obstacle that any other value is."""
_BY_FEATURE = {
    "delta.checkpointpolicy": ("classic", "v2Checkpoint", "its checkpoints are of version 2 (V2)"),
    "delta.columnmapping.mode": ("none", "columnMapping", "its columns have other names in its files (column mapping)"),
    "delta.enabledeletionvectors": ("false", "deletionVectors", "it has deletion vectors"),
    "delta.enablerowtracking": ("false", "rowTracking", "it has row tracking"),
    "delta.enabletypewidening": ("false", "typeWidening", "types of its columns may widen (type widening)"),
}
"""By property name in lower case, for properties that enable a feature: the value that demands nothing, the feature's
name, and the obstacle that any other value is. A feature leaves files behind that resetting the property does not undo.
"""
_CONSTRAINT = "delta.constraints."


def _of_properties(protocol: Protocol, alter: str) -> Iterator[Obstacle]:
    for name, value in sorted(protocol.properties.items()):
        key = name.lower()
        if not key.startswith("delta.") or key in _HARMLESS:
            continue
        setting = f"{name}={value}"
        if key.startswith(_CONSTRAINT):
            constraint = name[len(_CONSTRAINT) :]
            found = f"it has the CHECK constraint {constraint}, which is not looked at here ({name})"
            yield Obstacle(found, (f"{alter} DROP CONSTRAINT `{constraint}`",))
        elif key in _HARMLESS_VALUES:
            harmless, found = _HARMLESS_VALUES[key]
            if value.lower() != harmless:
                yield Obstacle(f"{found} ({setting})", (f"{alter} SET TBLPROPERTIES ('{name}' = '{harmless}')",))
        elif key in _BY_FEATURE:
            harmless, feature, found = _BY_FEATURE[key]
            if value.lower() != harmless and (feature in _USED_ELSEWHERE or feature not in protocol.features):
                yield Obstacle(
                    f"{found} ({setting})", (f"{alter} DROP FEATURE `{feature}`",), feature == "columnMapping"
                )
        else:
            found = f"it has a property that is not known here ({name})"
            yield Obstacle(found, (f"{alter} UNSET TBLPROPERTIES ('{name}')",))


def _of_columns(schema: pa.Schema, alter: str, table: str) -> Iterator[Obstacle]:
    back = f"RESTORE TABLE {table} TO VERSION AS OF «the last version without it, by DESCRIBE HISTORY {table}»"
    for name, field in _walk(schema):
        keys = {key.decode() for key in field.metadata or {}}
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            yield Obstacle(f"its column {name} is a timestamp without time zone (timestampNtz)", (back,))
        if "CURRENT_DEFAULT" in keys:
            found = f"its column {name} has a default, which is not filled in here"
            yield Obstacle(found, (f"{alter} ALTER COLUMN {name} DROP DEFAULT",))
        if "delta.typeChanges" in keys:
            found = f"the type of its column {name} was widened (type widening)"
            yield Obstacle(found, (f"{alter} DROP FEATURE `typeWidening`",))
        for key in sorted(keys):
            if key == "delta.invariants":
                yield Obstacle(f"its column {name} has an invariant, which is not looked at here", (back,))
            elif key == "delta.generationExpression":
                yield Obstacle(f"its column {name} is generated, by an expression that is not looked at here", (back,))
            elif key == "delta.identity.start":
                yield Obstacle(f"its column {name} is an identity column, which is not numbered here", (back,))
            elif key == "__COLLATIONS":
                yield Obstacle(f"its column {name} has a collation", (back,))
            elif key.startswith("delta.") and not key.startswith(_KNOWN_KEYS):
                yield Obstacle(f"its column {name} has a mark that is not known here ({key})", (back,))


_KNOWN_KEYS = ("delta.columnMapping.", "delta.identity.", "delta.typeChanges")


def _walk(fields: Iterable[pa.Field], inside: str = "") -> Iterator[tuple[str, pa.Field]]:
    """Yield all fields, including nested fields, with their full names."""
    for field in fields:
        name = f"{inside}{field.name}"
        yield name, field
        if pa.types.is_nested(field.type):
            yield from _walk((field.type.field(place) for place in range(field.type.num_fields)), f"{name}.")
