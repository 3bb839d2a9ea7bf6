"""Table `healthcare_instance`: live instances in the layout that Fabric's healthcare data solutions read.

Nearly all columns are text with names in lower case, and one text column has the whole metadata.

Source: the `instance` sink of "Copy DICOM Metadata Changes to ADLS Gen2 in Delta Format" in the template gallery of
Data Factory.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import msgspec
import pyarrow as pa

from dicom_assets.core.columns.dicom_json import FAILURES, UNREADABLE, count_failures
from dicom_assets.core.columns.schema import ELEMENTS, INSTANCE, TIMESTAMP, Column, Table

PROFILE = "healthcare-data-solutions"

_UNCHANGED = "partitionName", "lastModifiedTimestamp"
"""Columns that keep their name and type: in the template, these names are not in lower case."""


def _text(name: str, tag: str, description: str) -> Column:
    return Column(name, pa.string(), description, tag)


def _like(name: str) -> Column:
    """Return a column of `instance` as text, with its name in lower case."""
    column = INSTANCE[name]
    return column if name in _UNCHANGED else replace(column, name=name.lower(), type=pa.string())


HEALTHCARE_INSTANCE = Table(
    "healthcare_instance",
    "one live SOP instance in the layout of Fabric's healthcare data solutions",
    tuple(_like(name).name for name in INSTANCE.key),
    (
        *(_like(name) for name in (*INSTANCE.key, "lastModifiedTimestamp", "studyDate")),
        Column("studydate_formatted", pa.date32(), "Date the study started", "00080020"),
        *(_like(name) for name in ("studyDescription", "issuerOfPatientId", "patientId", "patientName", "modality")),
        *(_like(name) for name in ("sopClassUid", "filePath")),
        Column("metadata", ELEMENTS, "DICOM elements by tag; a value that is an object or a number is JSON text"),
        Column("metadata_string", pa.string(), "DICOM JSON text as received"),
        Column("created_date", TIMESTAMP, "Time this content was first read from the service, UTC"),
        *(_like(name) for name in ("patientBirthDate", "accessionNumber", "referringPhysicianName")),
        _text("modalitiesinstudy", "00080061", "Modalities in the study, as the instance says; the first alone"),
        *(_like(name) for name in ("performedProcedureStepStartDate", "manufacturerModelName", "studyTime")),
        _like("timezoneOffsetFromUtc"),
        _text("numberofstudyrelatedseries", "00201206", "Number of the study's series, as the instance says"),
        _text("numberofstudyrelatedinstances", "00201208", "Number of the study's instances, as the instance says"),
        *(_like(name) for name in ("seriesNumber", "seriesDescription")),
        _text("numberofseriesrelatedinstances", "00201209", "Number of the series' instances, as the instance says"),
        *(_like(name) for name in ("bodyPartExamined", "laterality", "seriesDate", "seriesTime", "instanceNumber")),
        _like("documentTitle"),
    ),
    # A map cannot be compared, and derives from its text. The time of a read is not part of the content.
    ignored=frozenset({"metadata", "created_date"}),
    study="studyinstanceuid",
)

_SOURCES = {
    **{column.name.lower(): column.name for column in INSTANCE.columns if column.name in (*INSTANCE.key, "filePath")},
    "partitionName": "partitionName",
    "lastModifiedTimestamp": "timestamp",
    "metadata": "metadata",
    "metadata_string": "metadata",
    "created_date": "ingestedAt",
}
"""Source columns in `change_feed`, by column of this table; all other columns derive from the metadata."""


def find_source(column: Column) -> str:
    """Return the name of the column of `change_feed` that a column derives from."""
    return _SOURCES.get(column.name, "metadata")


def build_healthcare_instances(
    entries: pa.Table, attributes: pa.Table, table: Table = HEALTHCARE_INSTANCE
) -> tuple[pa.Table, Counter[str]]:
    """Return one row per entry.

    Args:
        entries: rows of `change_feed`: the newest entry of each live instance.
        attributes: attributes of the entries, in their order, as `build_attributes` gives them.
        table: the table, `healthcare_instance`.

    Returns:
        Rows of the table, in the order of the entries, and the number of values that could not be converted, by column.
    """
    columns = {name: attributes[name] for name in attributes.column_names if name not in (FAILURES, UNREADABLE)}
    columns |= {name: entries[source] for name, source in _SOURCES.items()}
    columns["metadata"] = pa.chunked_array([read_elements(entries["metadata"].to_pylist())])
    rows = pa.table([columns[name] for name in table.schema.names], schema=table.schema)
    return rows, count_failures(attributes)


class _Element(msgspec.Struct, gc=False):
    vr: str | None = None
    Value: list[msgspec.Raw] | None = None


_Elements = dict[str, dict[str, object]]
_decoder = msgspec.json.Decoder(dict[str, _Element])
_lenient_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNDECODABLE = (ValueError, RecursionError)
"""Exceptions of the decoders; the errors of msgspec and json are ValueErrors."""


def read_elements(texts: list[str | None]) -> pa.Array:
    """Return the elements of each metadata text by tag; null for a text that is not a JSON object.

    A text value stays as it is; a number, a person's name and an item of a sequence become their JSON text. A malformed
    element has neither value representation nor values. If a tag occurs several times, the first occurrence counts, as
    in all other columns.
    """
    read = [None if text is None else _read(text) for text in texts]
    return pa.array([None if elements is None else list(elements.items()) for elements in read], ELEMENTS)


def _read(text: str) -> _Elements | None:
    with suppress(*_UNDECODABLE):
        text = _drop_repeated(text)
    with suppress(*_UNDECODABLE):
        return {tag: _describe(element) for tag, element in _decoder.decode(text).items()}
    with suppress(*_UNDECODABLE):
        return {tag: _read_element(element) for tag, element in _lenient_decoder.decode(text).items()}
    return None


def _drop_repeated(text: str) -> str:
    """Return the text of a JSON object with only the first of all members that share a name."""
    members = _lenient_decoder.decode(text)
    compact = sum(len(bytes(value)) + len(tag.encode()) + len('"":,') for tag, value in members.items()) + len("{}") - 1
    if compact == len(text.encode()):
        return text  # no member was dropped: the members fill the whole text, without white space

    def keep_first(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return dict(reversed(pairs))

    whole = json.loads(text, object_pairs_hook=list)
    return text if len(whole) == len(members) else json.dumps(json.loads(text, object_pairs_hook=keep_first))


def _read_element(text: msgspec.Raw) -> dict[str, object]:
    with suppress(*_UNDECODABLE):
        return _describe(msgspec.json.decode(text, type=_Element))
    return _describe(_Element())


def _describe(element: _Element) -> dict[str, object]:
    return {"vr": element.vr, "Value": None if element.Value is None else [_show(each) for each in element.Value]}


def _show(value: msgspec.Raw) -> str | None:
    text = bytes(value)
    if text.startswith(b'"'):
        return msgspec.json.decode(text, type=str)
    return None if text == b"null" else text.decode()
