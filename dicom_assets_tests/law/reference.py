"""The law in plain Python, written from its words alone: no Arrow, nothing of the project."""

from datetime import date, datetime, timedelta
from itertools import groupby

STUDY = {
    "studyDate": "00080020", "studyTime": "00080030", "studyDescription": "00081030", "accessionNumber": "00080050",
    "referringPhysicianName": "00080090", "issuerOfPatientId": "00100021", "patientId": "00100020",
    "patientName": "00100010", "patientBirthDate": "00100030", "patientSex": "00100040",
}  # fmt: skip
SERIES = {
    "modality": "00080060", "seriesNumber": "00200011", "seriesDescription": "0008103E", "seriesDate": "00080021",
    "seriesTime": "00080031", "bodyPartExamined": "00180015", "laterality": "00200060", "manufacturer": "00080070",
    "manufacturerModelName": "00081090", "performedProcedureStepStartDate": "00400244",
}  # fmt: skip
INSTANCE = {
    "sopClassUid": "00080016", "instanceNumber": "00200013", "timezoneOffsetFromUtc": "00080201",
    "documentTitle": "00420010", "numberOfFrames": "00280008", "rows": "00280010", "columns": "00280011",
}  # fmt: skip
KEY = ("partitionName", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
FILE = ("sequence", "lastModifiedTimestamp", "sopClassUid", "modality", "filePath")
NUMBERS = {"seriesNumber", "instanceNumber", "numberOfFrames", "rows", "columns"}


BLANKS = " \0"
LEADING_BLANKS_COUNT = ("LT", "ST", "UC", "UR", "UT")


def bare(value, vr=None):
    """A value without its padding; None where there is nothing else. Anything but a text stays as it is."""
    if not isinstance(value, str):
        return value
    while value and value[-1] in BLANKS:
        value = value[:-1]
    while value and value[0] in BLANKS and vr not in LEADING_BLANKS_COUNT:
        value = value[1:]
    return value or None


def bare_end(uid):
    """A UID as every table has it."""
    return uid.rstrip(BLANKS)


def has_metadata(entry):
    return isinstance(entry.get("metadata"), dict)


def value_of(metadata, name, tag):
    values = (metadata.get(tag) or {}).get("Value") or [None]
    value = values[0]
    if isinstance(value, dict):
        value = value.get("Alphabetic")
    value = bare(value, (metadata.get(tag) or {}).get("vr"))
    if value is None or not (name.endswith("Date") or name in NUMBERS):
        return value
    try:
        if name in NUMBERS:
            return int(value) if -(2**31) <= int(value) < 2**31 else None
        digits = value.replace(".", "")
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def instant(text):
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00") + timedelta(microseconds=int((fraction + "000000")[:6]))


def values_along(item, steps):
    """All values at the end of a path, each step a tag and the number of the value or item that is meant."""
    values, place = [item], 0
    for tag, index in steps:
        if not values or place >= len(values) or values[place] is None:
            return None
        values, place = (values[place].get(tag) or {}).get("Value"), index
    return values


def extra_value(metadata, column):
    """The value of a user's column: a number as a number, anything else as text."""
    steps = []
    for step in column.tag.split("."):
        tag, _, index = step.rstrip("]").partition("[")
        steps.append((tag, int(index or 0)))
    values = values_along(metadata, steps)
    values = None if values is None else [bare(value) for value in values]
    if values is None:
        return None
    is_list, is_number = "list" in column.type_name, "double" in column.type_name

    def convert(value):
        if not is_number:
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            return None

    converted = [convert(value) for value in values]
    last = steps[-1][1]
    return converted if is_list else converted[last] if last < len(converted) else None


def fold(entries, extra=()):
    """Tables by name, from all entries that were ever read, in the order in which they were read.

    Users' columns come with their grains.
    """
    latest = {entry["sequence"]: entry for entry in entries}  # of equal sequences the later read wins
    newest = {}
    for _, entry in sorted(latest.items()):
        newest[tuple(bare_end(entry[name]) for name in KEY)] = entry
    instances = []
    for key, entry in sorted(newest.items()):
        if entry["action"] == "Delete" or entry["state"] == "Deleted":
            continue
        metadata = entry["metadata"] if has_metadata(entry) else {}
        given = {"sequence": entry["sequence"], "lastModifiedTimestamp": instant(entry["timestamp"])}
        tags = STUDY | SERIES | INSTANCE
        values = {name: value_of(metadata, name, tag) for name, tag in tags.items()}
        values |= {"filePath": entry.get("filePath"), "metadataUnreadable": None if has_metadata(entry) else True}
        values |= {column.name: extra_value(metadata, column) for column, _ in extra}
        instances.append(dict(zip(KEY, key, strict=True)) | given | values)
    of_series = {column.name: column.tag for column, grain in extra if grain != "instance"}
    of_study = {column.name: column.tag for column, grain in extra if grain == "study"}
    return {
        "instance": instances,
        "series": [aggregate(rows, KEY[:3], STUDY | SERIES | of_series) for rows in groups(instances, KEY[:3])],
        "study": [aggregate(rows, KEY[:2], STUDY | of_study) for rows in groups(instances, KEY[:2])],
        "file_index": [
            {
                name: row[name]
                for name in (*KEY, "sequence", "lastModifiedTimestamp", "sopClassUid", "modality", "filePath")
            }
            | {"fileUrl": f"/files/{row['filePath']}"}
            for row in instances
            if row["filePath"] is not None
        ],
    }


def groups(rows, key):
    return [list(group) for _, group in groupby(rows, lambda row: [row[name] for name in key])]


def aggregate(rows, key, attributes):
    readable = [row for row in rows if not row["metadataUnreadable"]]
    newest = max(readable or rows, key=lambda row: row["sequence"])
    summary = {name: newest[name] for name in (*key, *attributes)}
    summary["lastModifiedTimestamp"] = max(row["lastModifiedTimestamp"] for row in rows)
    summary["instanceCount"] = len(rows)
    if len(key) == 2:
        summary["seriesCount"] = len({row["seriesInstanceUid"] for row in rows})
        summary["modalitiesInStudy"] = "\\".join(sorted({row["modality"] for row in rows if row["modality"]})) or None
    return summary
