"""Weeks of hourly commits on all tables with daily upkeep: files and log stay few, and the tables are right.

Time passes in the files: those of an hour are as old as the hour, and the retention is longer by the age of the day.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from dicom_assets.adapters.upkeep import Upkeep, maintain
from dicom_assets.core.schema import TABLES
from dicom_assets.emulator.store import Service
from dicom_assets_tests.adapters.lakes import build_lake, hours_ago
from dicom_assets_tests.law.test_order import apply
from dicom_assets_tests.law.world import World, hours, read_tables

DAY = 24
DEFAULT = "Microsoft.Default"


@dataclass(frozen=True)
class Limits:
    """What a table may have after upkeep that keeps versions for so many hours, in files."""

    retention: int

    @property
    def live(self) -> int:
        """All rows of such a small service fit into one."""
        return 1

    @property
    def stored(self) -> int:
        """An hour inserts a file, rewrites one, and in a quarter of the hours joins some; a day longer than it must."""
        return self.live + int(2.25 * (self.retention + DAY))

    @property
    def log(self) -> int:
        """An hour commits once; the fourth part comes of joining, the tenth of checkpoints, three a day of upkeep."""
        return int(1.5 * (self.retention + DAY))


def change(service: Service, hour: int) -> None:
    """A study is stored; one of the hours before is corrected, or deleted."""
    key = (f"1.{hour}", f"1.{hour}.1", f"1.{hour}.1.1")
    apply(service, ("store", DEFAULT, key, {"00080060": {"vr": "CS", "Value": ["CT"]}}), (hour, 0))
    if hour >= 3:
        kind, detail = ("delete", 1) if hour % 5 == 0 else ("update", f"Corrected {hour}")
        apply(service, (kind, DEFAULT, (f"1.{hour - 3}", "", ""), detail), (hour, 1))


def check_hours(folder: Path, total: int, retention: int) -> dict[str, Upkeep]:
    """Lets hours pass; gives what the last upkeep told."""
    limits, done = Limits(retention), {}
    with Service(seed=1, file_store=folder / "files") as service:
        world = World(service, build_lake(folder / "lake", retention_hours=retention + total))
        for hour in range(total):
            change(service, hour)
            age = total - hour - 1
            with hours_ago(world.lake, age):
                world.run_chain(hours(hour))
                if hour % DAY == DAY - 1:
                    world.lake = build_lake(folder / "lake", retention_hours=retention + age)
                    done = {table.name: maintain(world.lake, table) for table in TABLES}
            if hour % DAY == DAY - 1:
                for name, upkeep in done.items():
                    after = upkeep.after
                    assert upkeep.is_complete
                    assert after.live_files <= limits.live, (hour, name)
                    assert after.stored_files <= limits.stored, (hour, name)
                    assert after.log_files <= limits.log, (hour, name)
        assert read_tables(world.lake) == world.expected()
    return done


def check_oldest(folder: Path, done: dict[str, Upkeep], retention: int) -> None:
    """Versions are there for as long as was asked for, and hardly longer."""
    for table in TABLES:
        upkeep = done[table.name]
        newest = max(path.stat().st_mtime for path in (folder / "lake" / table.name).rglob("*"))
        assert abs(newest - upkeep.oldest_since.timestamp() - retention * 3600) < 3600, table.name
        oldest = DeltaTable(folder / "lake" / table.name, version=upkeep.oldest_version)
        assert len(pa.table(QueryBuilder().register("t", oldest).execute("select * from t"))) > 0


def test_days_of_hourly_commits_stay_few_files_and_log_entries(tmp_path):
    """Two days are kept, so that from the third on as much goes as comes."""
    done = check_hours(tmp_path, 4 * DAY, 48)
    check_oldest(tmp_path, done, 48)
    assert all(upkeep.removed_files >= DAY for upkeep in done.values())


@pytest.mark.deep
@pytest.mark.parametrize("retention", [168, 720])
def test_720_hourly_commits_stay_few_files_and_log_entries(tmp_path, retention):
    done = check_hours(tmp_path, 720, retention)
    for name, upkeep in done.items():
        print(retention, name, upkeep)
    if retention < 720:
        check_oldest(tmp_path, done, retention)
    else:
        assert {upkeep.oldest_version for upkeep in done.values()} == {0}
