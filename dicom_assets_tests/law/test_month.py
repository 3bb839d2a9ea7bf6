"""Weeks of hourly commits on all tables with daily upkeep: files and log stay few, and the tables are right.

Time passes in the files: those of an hour are as old as the hour, and the retention is longer by the age of the day.
Every table gets an hour's commits without what leads to them: how many files there are depends on the commits alone.
Four days go the whole way of a change too, from a service to the tables.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY, TABLES, Table
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.upkeep import Upkeep, maintain
from dicom_assets_tests.lakes.building import ALL_TABLES, Wanted, build_lake, hours_ago, read, store
from dicom_assets_tests.law.test_order import apply
from dicom_assets_tests.law.world import START, World, hours, read_tables

DAY = 24
DEFAULT = "Microsoft.Default"


@dataclass(frozen=True)
class Limits:
    """What a table may have after upkeep that keeps versions for so many hours, in files; docs/operations.md has it."""

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


def pass_hours(
    folder: Path, tables: Iterable[Table], total: int, retention: int, run: Callable[[Lake, int], None]
) -> dict[str, Upkeep]:
    """Lets hours pass, with upkeep at the end of each day; gives what the last one told."""
    limits, done = Limits(retention), {}
    for hour in range(total):
        age = total - hour - 1
        lake = build_lake(folder, retention_hours=retention + age)
        with hours_ago(lake, age):
            run(lake, hour)
            if hour % DAY == DAY - 1:
                done = {table.name: maintain(lake, table) for table in tables}
        if hour % DAY == DAY - 1:
            for name, upkeep in done.items():
                after = upkeep.after
                assert upkeep.is_complete
                assert after.live_files <= limits.live, (hour, name)
                assert after.stored_files <= limits.stored, (hour, name)
                assert after.log_files <= limits.log, (hour, name)
    return done


def change(service: Service, hour: int) -> None:
    """A study is stored; one of the hours before is corrected, or deleted."""
    key = (f"1.{hour}", f"1.{hour}.1", f"1.{hour}.1.1")
    apply(service, ("store", DEFAULT, key, {"00080060": {"vr": "CS", "Value": ["CT"]}}), (hour, 0))
    if hour >= 3:
        kind, detail = ("delete", 1) if hour % 5 == 0 else ("update", f"Corrected {hour}")
        apply(service, (kind, DEFAULT, (f"1.{hour - 3}", "", ""), detail), (hour, 1))


def write_rows(lake: Lake, hour: int, table: Table) -> None:
    """The same in a table's rows; the feed forgets nothing, so that there a correction takes a delete's place."""
    rows, gone = [row(table, hour, hour)], []
    if hour >= 3:
        earlier = row(table, hour - 3, hour)
        (gone if hour % 5 == 0 and table is not CHANGE_FEED else rows).append(earlier)
    if table is CHANGE_FEED:
        store(lake, *rows, table=table)
    else:
        lake.write(table, Wanted(rows, gone, table))


def row(table: Table, number: int, hour: int) -> dict[str, object]:
    """The row of a number as an hour leaves it: every column that must have a value, and one that changes."""
    changing = next(column.name for column in table.columns if column.nullable and column.type == pa.string())
    values = {changing: f"As of {hour}"}
    for column in table.columns:
        if column.nullable:
            continue
        at = hour if column.name in ("ingestedAt", table.fence) else number
        values[column.name] = (
            DEFAULT if column.name == "partitionName"
            else f"1.{number}" if column.type == pa.string()
            else at if pa.types.is_integer(column.type)
            else START + timedelta(hours=at)
        )  # fmt: skip
    return values


def expect_rows(table: Table, total: int) -> list[dict[str, object]]:
    """What the rows must be after so many hours."""
    rows = [
        row(table, number, number + 3 if number + 3 < total else number)
        for number in range(total)
        if table is CHANGE_FEED or (number + 3) % 5 or number + 3 >= total
    ]
    return sorted(rows, key=lambda each: [each[name] for name in table.key])


def check_oldest(folder: Path, done: dict[str, Upkeep], retention: int) -> None:
    """Versions are there for as long as was asked for, and hardly longer."""
    for name, upkeep in done.items():
        newest = max(path.stat().st_mtime for path in (folder / name).rglob("*"))
        assert abs(newest - upkeep.oldest_since.timestamp() - retention * 3600) < 3600, name
        oldest = DeltaTable(folder / name, version=upkeep.oldest_version)
        assert len(pa.table(QueryBuilder().register("t", oldest).execute("select * from t"))) > 0


@pytest.mark.parametrize("table", [CHANGE_FEED, INSTANCE, STUDY], ids=lambda table: table.name)
def test_days_of_hourly_commits_stay_few_files_and_log_entries(tmp_path, table):
    """Two days are kept, so that from the third on as much goes as comes."""
    done = pass_hours(tmp_path, [table], 4 * DAY, 48, partial(write_rows, table=table))
    assert read(build_lake(tmp_path), table) == expect_rows(table, 4 * DAY)
    check_oldest(tmp_path, done, 48)
    assert done[table.name].removed_files >= DAY


@pytest.mark.deep
def test_days_of_hourly_runs_stay_few_files_and_log_entries(tmp_path):
    with Service(seed=1, file_store=tmp_path / "files") as service:
        world = World(service, build_lake(tmp_path / "lake"))

        def run(lake: Lake, hour: int) -> None:
            world.lake = lake
            change(service, hour)
            world.run_chain(hours(hour))

        done = pass_hours(tmp_path / "lake", TABLES, 4 * DAY, 48, run)
        assert read_tables(world.lake) == world.expected()
    check_oldest(tmp_path / "lake", done, 48)
    assert all(upkeep.removed_files >= DAY for upkeep in done.values())


@pytest.mark.deep
@pytest.mark.parametrize("retention", [720, 168])
@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.name)
def test_720_hourly_commits_stay_few_files_and_log_entries(tmp_path, table, retention):
    done = pass_hours(tmp_path, [table], 720, retention, partial(write_rows, table=table))
    print(done)
    assert done[table.name].after.version >= 720
    assert read(build_lake(tmp_path), table) == expect_rows(table, 720)
    if retention < 720:
        check_oldest(tmp_path, done, retention)
    else:
        assert done[table.name].oldest_version == 0
