"""Declaration of every column of every table.

Arrow schemas, Delta comments, Dagster column schemas and docs/tables.md derive from this declaration.

Source: DICOM PS3.6 (tags and value representations), PS3.18 Annex F (text forms of values).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

import pyarrow as pa

from dicom_assets.core.columns.element_path import Step, parse_path

TIMESTAMP = pa.timestamp("us", tz="UTC")

type_names: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": TIMESTAMP,
    "list<string>": pa.list_(pa.string()),
    "list<double>": pa.list_(pa.float64()),
}
"""Column types by the name that users write and the documentation shows."""

ELEMENTS = pa.map_(pa.string(), pa.struct([("vr", pa.string()), ("Value", pa.list_(pa.string()))]))
"""Type of a map from tag to DICOM element; columns that users add cannot have it."""

_shown_names = {**type_names, "boolean": pa.bool_(), "map<string, struct<vr: string, Value: list<string>>>": ELEMENTS}


class Grain(StrEnum):
    """Level that an attribute describes; it decides which tables have the attribute."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    """Name in the table, in camelCase."""
    type: pa.DataType
    description: str
    tag: str | None = None
    """Eight hexadecimal digits, or a path of tags (`element_path.py`); None if the source is not an element."""
    nullable: bool = True

    @property
    def path(self) -> tuple[Step, ...]:
        """Steps from the top level of the data set down to the element; empty without a tag."""
        return parse_path(self.tag) if self.tag else ()

    @property
    def type_name(self) -> str:
        """Name of the type, as users write it and the documentation shows it."""
        return next(name for name, type_ in _shown_names.items() if type_ == self.type)

    @property
    def comment(self) -> str:
        """Comment in the Delta table: the description with the tag."""
        return f"{self.description} ({self.tag})" if self.tag else self.description

    @property
    def arrow(self) -> pa.Field:
        """Arrow field, with the comment in the metadata that Delta reads."""
        return pa.field(self.name, self.type, self.nullable, metadata={"comment": self.comment})


@dataclass(frozen=True)
class Table:
    """Declaration of a Delta table: the meaning of a row, the key, and the columns in order."""

    name: str
    row: str
    """Meaning of one row, as a noun phrase."""
    key: tuple[str, ...]
    """Names of the columns that identify a row."""
    columns: tuple[Column, ...]
    fence: str | None = None
    """Column that never decreases: a stored row with a greater value is not overwritten. None if there is none."""
    ignored: frozenset[str] = field(default=frozenset())
    """Names of columns whose value may differ between two reads of an unchanged row."""
    study: str = "studyInstanceUid"
    """Column with the Study Instance UID. Without an hour, the study decides which files may hold a row."""
    hour: str | None = None
    """Column with the hour of a row, which never changes. Its range in the log, and then that of the key's first
    column, decide which files may hold a row. None if the rows of an hour are not stored together."""

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema, with the comments."""
        return pa.schema([column.arrow for column in self.columns])

    @property
    def ranged(self) -> tuple[str, ...]:
        """Columns whose ranges in the log decide which files may hold a row; empty if the study decides."""
        return (self.hour, self.key[0]) if self.hour else ()

    @property
    def merge_columns(self) -> tuple[str, ...]:
        """Columns that a merge needs of a key: the key itself, the fence and the hour, as far as the table has them."""
        return tuple(dict.fromkeys([*self.key, *filter(None, [self.fence, self.hour])]))

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def attributes(self) -> tuple[Column, ...]:
        """Columns that come from DICOM elements and are not in the key, in order."""
        return tuple(column for column in self.columns if column.tag and column.name not in self.key)


def _key(name: str, tag: str | None, description: str) -> Column:
    return Column(name, pa.string(), description, tag, nullable=False)


def _text(name: str, tag: str, description: str) -> Column:
    return Column(name, pa.string(), description, tag)


def _date(name: str, tag: str, description: str) -> Column:
    return Column(name, pa.date32(), description, tag)


def _int(name: str, tag: str, description: str) -> Column:
    return Column(name, pa.int32(), description, tag)


def _long(name: str, description: str) -> Column:
    return Column(name, pa.int64(), description, nullable=False)


def _timestamp(name: str, description: str) -> Column:
    return Column(name, TIMESTAMP, description, nullable=False)


KEY: tuple[Column, ...] = (
    _key("partitionName", None, "Data partition of the service"),
    _key("studyInstanceUid", "0020000D", "Study Instance UID"),
    _key("seriesInstanceUid", "0020000E", "Series Instance UID"),
    _key("sopInstanceUid", "00080018", "SOP Instance UID"),
)
"""Key of an instance. The first three columns identify a series, the first two a study."""

STUDY_ATTRIBUTES: tuple[Column, ...] = (
    _date("studyDate", "00080020", "Date the study started"),
    _text("studyTime", "00080030", "Time the study started, as DICOM TM text"),
    _text("studyDescription", "00081030", "Description of the study"),
    _text("accessionNumber", "00080050", "Accession number of the order"),
    _text("referringPhysicianName", "00080090", "Name of the referring physician"),
    _text("issuerOfPatientId", "00100021", "Authority that issued the patient ID"),
    _text("patientId", "00100020", "Patient ID"),
    _text("patientName", "00100010", "Patient's name, alphabetic form"),
    _date("patientBirthDate", "00100030", "Patient's birth date"),
    _text("patientSex", "00100040", "Patient's sex"),
)

SERIES_ATTRIBUTES: tuple[Column, ...] = (
    _text("modality", "00080060", "Modality"),
    _int("seriesNumber", "00200011", "Number of the series"),
    _text("seriesDescription", "0008103E", "Description of the series"),
    _date("seriesDate", "00080021", "Date the series started"),
    _text("seriesTime", "00080031", "Time the series started, as DICOM TM text"),
    _text("bodyPartExamined", "00180015", "Body part examined"),
    _text("laterality", "00200060", "Laterality of the body part"),
    _text("manufacturer", "00080070", "Manufacturer of the equipment"),
    _text("manufacturerModelName", "00081090", "Model name of the equipment"),
    _date("performedProcedureStepStartDate", "00400244", "Date the performed procedure step started"),
)

INSTANCE_ATTRIBUTES: tuple[Column, ...] = (
    _text("sopClassUid", "00080016", "SOP Class UID"),
    _int("instanceNumber", "00200013", "Number of the instance"),
    _text("timezoneOffsetFromUtc", "00080201", "Offset of the data set's times from UTC"),
    _text("documentTitle", "00420010", "Title of an encapsulated document"),
    _int("numberOfFrames", "00280008", "Number of frames"),
    _int("rows", "00280010", "Height in pixels"),
    _int("columns", "00280011", "Width in pixels"),
)

_FILE_PATH = Column("filePath", pa.string(), "Path of the DICOM file in the service's file system")
_LAST_MODIFIED = _timestamp("lastModifiedTimestamp", "Time of the newest change, UTC")
_SEQUENCE = _long("sequence", "Sequence of the change in the feed")
_INSTANCE_COUNT = _long("instanceCount", "Number of live instances")

SERVICE = _key("serviceName", None, "Name of the DICOM service")
"""First column of a table that has rows of several services."""

CHANGE_FEED = Table(
    "change_feed",
    "one entry of the change feed, verbatim",
    ("sequence",),
    (
        *KEY,
        _SEQUENCE,
        _timestamp("timestamp", "Time of the change, UTC"),
        Column("action", pa.string(), "Create, Update or Delete", nullable=False),
        Column("state", pa.string(), "Current, Replaced or Deleted, as of the moment of reading", nullable=False),
        _FILE_PATH,
        Column("metadata", pa.string(), "DICOM JSON text of the version current at the moment of reading, as received"),
        _timestamp("windowStart", "Start of the hour the change lies in, UTC"),
        _timestamp("ingestedAt", "Time this content was first read from the service, UTC"),
    ),
    fence="ingestedAt",
    hour="windowStart",
    ignored=frozenset({"ingestedAt"}),
)

METADATA_UNREADABLE = Column(
    "metadataUnreadable",
    pa.bool_(),
    "True where the service could not give the metadata, or gave no DICOM JSON object: the attributes are null, and "
    "those of the series and study come from other instances; else null",
)
"""Technical column: `series` and `study` derive their attributes only from instances that have attributes."""

INSTANCE = Table(
    "instance",
    "one live SOP instance with its current attributes",
    tuple(column.name for column in KEY),
    (
        *(*KEY, _SEQUENCE, _LAST_MODIFIED, *STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, *INSTANCE_ATTRIBUTES, _FILE_PATH),
        METADATA_UNREADABLE,
    ),
    fence="sequence",
)

SERIES = Table(
    "series",
    "one series with at least one live instance",
    tuple(column.name for column in KEY[:3]),
    (*KEY[:3], _LAST_MODIFIED, *STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, _INSTANCE_COUNT),
)

STUDY = Table(
    "study",
    "one study with at least one live instance",
    tuple(column.name for column in KEY[:2]),
    (
        *KEY[:2],
        _LAST_MODIFIED,
        *STUDY_ATTRIBUTES,
        Column("modalitiesInStudy", pa.string(), "Distinct modalities of the instances, sorted, joined by a backslash"),
        _long("seriesCount", "Number of series with a live instance"),
        _INSTANCE_COUNT,
    ),
)

FILE_INDEX = Table(
    "file_index",
    "one live instance that has a file",
    tuple(column.name for column in KEY),
    (
        *KEY,
        _SEQUENCE,
        _LAST_MODIFIED,
        INSTANCE["sopClassUid"],
        INSTANCE["modality"],
        replace(_FILE_PATH, nullable=False),
        Column("fileUrl", pa.string(), "Full location of the DICOM file"),
    ),
)

TABLES: tuple[Table, ...] = (CHANGE_FEED, INSTANCE, SERIES, STUDY, FILE_INDEX)
"""The five tables, in the order in which a change reaches the tables."""

_CARRIERS = {
    INSTANCE.name: frozenset(Grain),
    SERIES.name: frozenset({Grain.STUDY, Grain.SERIES}),
    STUDY.name: frozenset({Grain.STUDY}),
}


def extend_tables(extra: Sequence[tuple[Column, Grain]]) -> tuple[Table, ...]:
    """Return the five tables with the users' columns behind their own columns.

    Args:
        extra: the users' columns, each with the grain that decides which tables have the column.
    """
    return tuple(
        replace(
            table,
            columns=(
                *table.columns,
                *(column for column, grain in extra if grain in _CARRIERS.get(table.name, frozenset())),
            ),
        )
        for table in TABLES
    )
