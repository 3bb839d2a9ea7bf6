"""The law holds for the layout of healthcare data solutions: any order of changes and runs gives the same rows."""

import json
import tempfile

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.files import data_file
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.test_order import HOURS, KEYS, PARTITIONS, apply, histories, law, lose
from dicom_assets_tests.law.world import World, hours

NAME = HEALTHCARE_INSTANCE.name
KEY = HEALTHCARE_INSTANCE.key


def expected(read: list[dict]) -> list[dict]:
    """The rows, in plain Python, of what the law says is live."""
    entries = {entry["sequence"]: entry for entry in read}
    rows = []
    for row in reference.fold(read)["instance"]:
        entry = entries[row["sequence"]]
        metadata = entry.get("metadata") or {}
        rows.append(
            {name: row[own] for name, own in zip(KEY, reference.KEY, strict=True)}
            | {
                "lastModifiedTimestamp": row["lastModifiedTimestamp"],
                "filepath": row["filePath"],
                "studydate_formatted": row["studyDate"],
                "modality": row["modality"],
                "patientname": row["patientName"],
                "metadata_string": entry.get("metadata"),
                "tags": sorted(metadata),
            }
        )
    return rows


def found(world: World) -> list[dict]:
    snapshot = world.lake.open(HEALTHCARE_INSTANCE)
    rows = snapshot.read_table().to_pylist(maps_as_pydicts="strict") if snapshot else []
    for row in rows:
        row["tags"] = sorted(row["metadata"] or {})
        assert row["created_date"] is not None
        row["metadata_string"] = None if row["metadata_string"] is None else json.loads(row["metadata_string"])
    names = expected(world.read)[0].keys() if rows and expected(world.read) else KEY
    return sorted(({name: row[name] for name in names} for row in rows), key=lambda row: [row[name] for name in KEY])


def run(world: World, first: int, count: int = 1) -> None:
    for name in ("change_feed", NAME):
        world.run(name, hours(first, count))


def stored(key: tuple[str, str, str], at: int) -> tuple:
    return ("change", ("store", PARTITIONS[0], key, {"00080060": {"vr": "CS", "Value": ["CT"]}}), (at, 0))


DELETED_AND_CORRECTED = [
    *(stored(key, 0) for key in KEYS),
    ("run", ("instance", (0, 1))),
    ("change", ("delete", PARTITIONS[0], KEYS[0], 1), (1, 0)),
    ("change", ("update", PARTITIONS[0], KEYS[-1], "A"), (1, 1)),
    ("run", ("instance", (1, 1))),
    ("run", ("instance", (0, 1))),
    stored(KEYS[0], 2),
]
"""All instances of a study go after their rows were written, those of another change, and one comes back."""


@law(12)
@example(DELETED_AND_CORRECTED, list(range(HOURS)))
@given(histories, st.permutations(range(HOURS)))
def test_any_history_of_changes_and_runs_gives_the_rows_of_a_straight_replay(history, order):
    with Service(seed=1) as service, tempfile.TemporaryDirectory(prefix="law-") as folder:
        world = World(service, build_lake(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_file, "JOINED_FILES", 2)
            for kind, *details in history:
                if kind == "change":
                    apply(service, *details)
                elif kind == "maintain":
                    maintain(world.lake, HEALTHCARE_INSTANCE)
                elif kind in ("spoil", "heal"):
                    lose(world, kind, *details)
                else:
                    run(world, *details[0][1])
            for hour in order:
                run(world, hour)
            assert found(world) == expected(world.read)
            before = world.lake.version(HEALTHCARE_INSTANCE)
            for hour in reversed(order):
                run(world, hour)
            assert found(world) == expected(world.read)
            assert world.lake.version(HEALTHCARE_INSTANCE) == before
