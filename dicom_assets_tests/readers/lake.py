"""A lake with a past, as the project's own writers leave it, and what its tables must hold."""

import json
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from pathlib import Path

import pytest
from deltalake import DeltaTable

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.datasets.sources import synthesize
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.reference import KEY, value_of
from dicom_assets_tests.law.world import START, World, hours

HOURS = 10
"""As many runs, and one more."""
COMPACTED_AFTER = 5
"""Hours. The project's own joining of small files follows."""
NAMES = tuple(table.name for table in TABLES)
COLUMNS = """
[[columns]]
name = "imageType"
tag = "00080008"
type = "list<string>"
grain = "instance"

[[columns]]
name = "stationName"
tag = "00081010"
type = "string"
grain = "series"

[[columns]]
name = "sliceThickness"
tag = "00180050"
type = "double"
grain = "instance"
"""
ANCIENT = ("00010101", "11111111", "15821010", "18991231", "99991231")
ADDED = {"instance": ("imageType", "stationName", "sliceThickness"), "series": ("stationName",)}


@dataclass(frozen=True)
class LakeWithPast:
    """Tables after merges, deletes, joined files, delta-rs's compaction, a merge on top of it, and added columns."""

    folder: Path
    """In which the tables lie under `data/dicom`."""
    expected: dict[str, list[dict]]
    """Rows by table, in the order of their keys."""
    before: dict[str, list[dict]]
    """The same before the last run."""
    versions: dict[str, int]
    """Of the tables before the last run."""
    files: dict[str, tuple[int, int]]
    """Of each table the live files just before and just after delta-rs's compaction."""

    def path(self, name: str) -> str:
        return str(self.folder / "data/dicom" / name)


def expect(entries: list[dict], added_from: int | None = None) -> dict[str, list[dict]]:
    """All five tables; columns that were added later have values where an entry from that sequence on decided."""
    tables = {"change_feed": [_entry_row(entry) for entry in entries]} | reference.fold(entries)
    if added_from is None:
        return tables
    metadata = {entry["sequence"]: entry.get("metadata") or {} for entry in entries}
    for row in tables["instance"]:
        own = metadata[row["sequence"]] if row["sequence"] >= added_from else {}
        thickness = value_of(own, "sliceThickness", "00180050")
        row["imageType"] = (own.get("00080008") or {}).get("Value")
        row["stationName"] = value_of(own, "stationName", "00081010")
        row["sliceThickness"] = None if thickness is None else float(thickness)
    for row in tables["series"]:
        of_series = [each for each in tables["instance"] if all(each[name] == row[name] for name in KEY[:3])]
        row["stationName"] = max(of_series, key=lambda each: each["sequence"])["stationName"]
    return tables


def _entry_row(entry: dict) -> dict:
    moment = reference.instant(entry["timestamp"])
    metadata = entry.get("metadata")
    return {
        **{name: entry[name] for name in (*KEY, "sequence", "action", "state")},
        "timestamp": moment,
        "filePath": entry.get("filePath"),
        "metadata": None if metadata is None else json.loads(json.dumps(metadata)),
        "windowStart": moment.replace(minute=0, second=0, microsecond=0),
    }


def build_lake_with_past(folder: Path) -> LakeWithPast:
    """Hours one by one, delta-rs's compaction among them; then columns are added, and one more hour changes rows."""
    columns = folder / "columns.toml"
    columns.write_text(COLUMNS)
    with Service(seed=1, file_store=folder / "files") as service:
        write_history(service, start=START, hours=HOURS, instances=260, seed=39)
        world = World(service, build_lake(folder / "data/dicom"), page_size=200)
        for hour in range(COMPACTED_AFTER):
            world.run_chain(hours(hour))
        files = {name: _compact(folder / "data/dicom" / name) for name in NAMES}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_file, "JOINED_FILES", 3)
            for hour in range(COMPACTED_AFTER, HOURS):
                world.run_chain(hours(hour))
        before = expect(service.change_feed(limit=10**6))
        versions = {name: DeltaTable(folder / "data/dicom" / name).version() for name in NAMES}
        sequence = max(row["sequence"] for row in before["change_feed"])
        _change(service, before["study"])
        world.extra = load_settings({"DICOM_EXTRA_COLUMNS": str(columns)}).extra_columns
        world.run_chain(hours(HOURS))
        # What the feed says of older entries has changed too, and is read again with the hours they lie in.
        world.run("change_feed", hours(0, HOURS))
        expected = expect(service.change_feed(limit=10**6), added_from=sequence + 1)
    return LakeWithPast(folder, expected, before, versions, files)


def _change(service: Service, studies: list[dict]) -> None:
    """A study comes, with dates of times that never were; one is corrected, one goes, all in the last hour."""
    at = START + timedelta(hours=HOURS, minutes=7)
    for metadata, day in zip(synthesize(10, seed=97, day=START.date()), cycle(ANCIENT), strict=False):
        dates = {tag: {"vr": "DA", "Value": [day]} for tag in ("00080021", "00400244")}
        service.store_metadata(metadata | dates, at=at)
    first, second, *_ = studies
    correction = {"00100020": {"vr": "LO", "Value": ["P-Größe"]}}
    service.update(first["studyInstanceUid"], correction, partition=first["partitionName"], at=at)
    service.delete(second["studyInstanceUid"], partition=second["partitionName"], at=at)


def _compact(path: Path) -> tuple[int, int]:
    table = DeltaTable(path)
    before = len(table.file_uris())
    table.optimize.compact()
    return before, len(table.file_uris())
