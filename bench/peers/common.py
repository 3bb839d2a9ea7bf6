"""What every script here does: take a URL, a folder and a window, and say at the end how long it took."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

PAGE = 200
TIMEOUT = 60

Window = dict[str, str]
Rows = list[dict[str, Any]]


def main(run: Callable[[str, str, Window], dict[str, Any]]) -> None:
    """Runs it on `URL FOLDER START END`, and prints what it returns with the seconds it took."""
    url, folder, start, end = sys.argv[1:5]
    started = time.perf_counter()
    said = run(f"{url}/v2/changefeed", folder, {"startTime": start, "endTime": end})
    print(json.dumps({**said, "seconds": time.perf_counter() - started}))


def newest(entries: Rows) -> Rows:
    """The entry of the greatest sequence of every instance."""
    by_key: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: entry["sequence"]):
        by_key[tuple(entry[name] for name in KEY)] = entry
    return list(by_key.values())


def is_deleted(entry: dict[str, Any]) -> bool:
    return entry["action"] == "Delete" or entry["state"] == "Deleted"


def attributes(entry: dict[str, Any]) -> dict[str, Any]:
    """An `instance` row: the key, and the first values of some elements, as text."""
    metadata = entry.get("metadata") or {}
    row = {name: entry[name] for name in KEY}
    row |= {"sequence": entry["sequence"], "lastModifiedTimestamp": entry["timestamp"]}
    row |= {"filePath": entry.get("filePath")}
    for name, tag in ELEMENTS.items():
        value = next(iter(metadata.get(tag, {}).get("Value", [])), None)
        if isinstance(value, dict):
            value = value.get("Alphabetic")
        row[name] = None if value is None else str(value)
    return row


KEY = ("partitionName", "studyInstanceUid", "seriesInstanceUid", "sopInstanceUid")
ELEMENTS = {
    "studyDate": "00080020",
    "studyTime": "00080030",
    "studyDescription": "00081030",
    "accessionNumber": "00080050",
    "referringPhysicianName": "00080090",
    "issuerOfPatientId": "00100021",
    "patientId": "00100020",
    "patientName": "00100010",
    "patientBirthDate": "00100030",
    "patientSex": "00100040",
    "modality": "00080060",
    "seriesNumber": "00200011",
    "seriesDescription": "0008103E",
    "seriesDate": "00080021",
    "seriesTime": "00080031",
    "bodyPartExamined": "00180015",
    "laterality": "00200060",
    "manufacturer": "00080070",
    "manufacturerModelName": "00081090",
    "performedProcedureStepStartDate": "00400244",
    "sopClassUid": "00080016",
    "instanceNumber": "00200013",
    "timezoneOffsetFromUtc": "00080201",
    "documentTitle": "00420010",
    "numberOfFrames": "00280008",
    "rows": "00280010",
    "columns": "00280011",
}
