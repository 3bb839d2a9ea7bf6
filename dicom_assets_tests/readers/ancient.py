"""A lake whose tables hold dates from the year 1 on, which hospitals write where they know none."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import Table, extend_tables
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.emulator.conftest import metadata_of
from dicom_assets_tests.lakes.building import build_lake
from dicom_assets_tests.law.world import START, World

DATES = (
    "00010101", "00010228", "11111111", "15000229", "15821004", "15821005", "15821010", "15821014", "15821015",
    "18991231", "19000101", "20260301", "99991231",
)  # fmt: skip
"""Among them days that one of the two calendars does not know: 1500-02-29 is none in ours, and becomes null."""
COLUMNS = """
[[columns]]
name = "acquired"
tag = "0008002A"
type = "timestamp"
grain = "instance"

[[columns]]
name = "calibrated"
tag = "00181200"
type = "date"
grain = "study"
"""
DAYS = {date(int(text[:4]), int(text[4:6]), int(text[6:])) for text in DATES if text != "15000229"}
TIMES = {datetime(day.year, day.month, day.day, 11, 22, 33, 445566, UTC) for day in DAYS}
"""What the tables must hold."""


class AncientWorld(World):
    """Runs of all tables, that of the profile too."""

    def run_chain(self, window) -> None:
        super().run_chain(window)
        self.run(HEALTHCARE_INSTANCE.name, window)


def open_world(service: Service, folder: Path) -> AncientWorld:
    """The lake in a folder, with columns of a user's that hold dates and times."""
    columns = folder / "columns.toml"
    columns.parent.mkdir(exist_ok=True)
    columns.write_text(COLUMNS)
    world = AncientWorld(service, build_lake(folder / "lake"), page_size=200)
    world.extra = load_settings({"DICOM_EXTRA_COLUMNS": str(columns)}).extra_columns
    return world


def tables_of(world: World) -> list[Table]:
    return [*extend_tables(world.extra), HEALTHCARE_INSTANCE]


def store_ancient(service: Service, hour: int) -> None:
    """A study for each date, of two instances, one with the next date."""
    for number, day in enumerate(DATES):
        study = f"1.{hour + 1}.{number + 1}"
        for instance in (1, 2):
            own = DATES[(number + instance - 1) % len(DATES)]
            metadata = metadata_of(study, f"{study}.1", f"{study}.1.{instance}") | {
                "00080020": _element("DA", own),
                "00080021": _element("DA", day),
                "0008002A": _element("DT", f"{day}112233.445566+0000"),
                "00080060": _element("CS", "CT"),
                "00100030": _element("DA", day),
                "00181200": _element("DA", day),
                "00400244": _element("DA", own),
            }
            service.store_metadata(metadata, at=START + timedelta(hours=hour, minutes=number), file_path=f"{study}.dcm")


def _element(vr: str, value: str) -> dict:
    return {"vr": vr, "Value": [value]}
