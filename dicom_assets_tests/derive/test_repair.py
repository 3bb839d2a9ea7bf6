"""Lakes of version 0.1.0, which kept padding in UIDs and values, are repaired by upkeep (`lakes/make_padded.py`)."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY, TABLES
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.derive.agreement import audit
from dicom_assets.derive.repair import Repair, _may_differ
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests import lakes
from dicom_assets_tests.lakes.building import ALL_TABLES, build_lake
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.test_healthcare import expected as expected_healthcare
from dicom_assets_tests.law.test_healthcare import found as found_healthcare
from dicom_assets_tests.law.world import World, hours, read_tables
from dicom_assets_tests.processes import clean_environment, run_command

ARCHIVE = Path(lakes.__file__).parent / "padded.tar.gz"


@pytest.fixture
def folder(tmp_path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "dicom", filter="data")
    return tmp_path / "dicom"


def read_entries(folder: Path) -> list[dict]:
    return json.loads((folder / "read.json").read_text())


def repair(lake: Lake) -> Repair:
    return Repair(lake, ALL_TABLES, "/files", entries=3)


def check_right(lake: Lake, folder: Path) -> None:
    read = read_entries(folder)
    assert read_tables(lake) == reference.fold(read)
    with Service(seed=1) as service:
        assert found_healthcare(World(service, lake, read)) == expected_healthcare(read)
    stored = lake.open(CHANGE_FEED).read_table(["sequence", *(column for column in INSTANCE.key)]).to_pylist()
    assert sorted(row["sequence"] for row in stored) == sorted({entry["sequence"] for entry in read})
    assert not any(value.endswith((" ", "\0")) for row in stored for value in row.values() if isinstance(value, str))


def test_lake_of_an_earlier_version_has_doubles_that_the_audit_finds_by_their_padding(folder):
    lake = build_lake(folder)
    uids = lake.open(INSTANCE).read_table(["sopInstanceUid"])["sopInstanceUid"].to_pylist()
    assert len(uids) > len({uid.rstrip(" \0") for uid in uids})
    found = audit(lake, ALL_TABLES)
    for name in ("change_feed", "instance", "series", "study", "healthcare_instance"):
        assert found[name].padded, name
        assert not found[name].is_complete


def test_repair_leaves_what_the_law_says_and_nothing_to_do(folder):
    lake = build_lake(folder)
    changed = repair(lake).run()
    assert set(changed) >= {table.name for table in ALL_TABLES}
    check_right(lake, folder)
    assert all(agreement.is_complete for agreement in audit(lake, ALL_TABLES).values())
    versions = [lake.version(table) for table in ALL_TABLES]
    assert repair(build_lake(folder)).run() == {}
    assert [lake.version(table) for table in ALL_TABLES] == versions


def test_repair_that_ends_at_any_write_is_completed_by_the_next(folder, tmp_path_factory):
    class KilledError(Exception):
        pass

    class MortalLake(Lake):
        writes = 0

        def write(self, table, derivation):
            self.writes -= 1
            if self.writes < 0:
                raise KilledError
            return super().write(table, derivation)

    for writes in range(100):
        with tarfile.open(ARCHIVE) as archive:
            place = tmp_path_factory.mktemp("lake")
            archive.extractall(place, filter="data")
        lake = MortalLake(build_lake(place).storage, {table.name: table.name for table in ALL_TABLES})
        lake.writes = writes
        try:
            repair(lake).run()
        except KilledError:
            repair(build_lake(place)).run()
            check_right(build_lake(place), place)
        else:
            break
    assert writes > 8


def test_hours_that_follow_before_and_after_the_repair_are_right_in_the_end(folder):
    lake = build_lake(folder)
    read = read_entries(folder)
    with Service(seed=1) as service:
        service.store_metadata(
            {tag: {"vr": "UI", "Value": [uid]} for tag, uid in
             (("0020000D", "1.1"), ("0020000E", "1.1.1"), ("00080018", "1.1.1.9"))}, at=hours(3).start,
        )  # fmt: skip
        world = World(service, lake, paddings=("\0",))
        service_sequence = max(entry["sequence"] for entry in read)

        def show(entry):
            return World._show(world, entry) | {"sequence": entry["sequence"] + service_sequence}

        world._show = show
        world.run_chain(hours(3))
        repair(lake).run()
        for name in ("instance", "series", "study", "file_index"):
            world.run(name, hours(0, 4))
    assert read_tables(lake) == reference.fold([*read, *world.read])


def test_the_command_repairs(folder, tmp_path):
    environment = clean_environment(DICOM_STORAGE_URL=str(tmp_path), DICOM_FILE_SYSTEM_URL="/files")
    planned = run_command("maintain", "--dry-run", env=environment)
    assert planned.returncode == 0, planned.stderr
    assert "would be" in planned.stdout
    assert "instance" in planned.stdout
    done = run_command("maintain", env=environment)
    assert done.returncode == 0, done.stderr
    assert read_tables(build_lake(folder)) == reference.fold(read_entries(folder))
    assert not any(f"Test^{number}" in planned.stdout + done.stdout + done.stderr for number in range(6))


PADDED = [{"a": ["x "]}, {"a": [" x"]}, {"a": ["", "y"]}, {"a": {"b": "x "}, "c": 1}, {"a": "x\0"}, ["x"]]
CLEAN = [{"a": ["x", "y"]}, {"a": {"b": "x y"}, "c": ["z"]}, {"a": 1, "b": None, "c": ['said "x" twice']}]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_only_metadata_with_padding_is_derived_again_however_it_is_laid_out(indent, separators):
    texts = [json.dumps(metadata, indent=indent, separators=separators) for metadata in (*PADDED, *CLEAN)]
    found = _may_differ(pa.table({"metadata": texts}))
    assert found.to_pylist() == [True] * len(PADDED) + [False] * len(CLEAN)


def test_new_tables_need_no_repair(tmp_path):
    lake = build_lake(tmp_path)
    for table in TABLES:
        lake.open_or_create(table)
    assert repair(lake).find_due() == []
    assert repair(lake).run() == {}
    assert DeltaTable(lake.uri(INSTANCE)).version() == 0
    assert HEALTHCARE_INSTANCE.name not in [table.name for table in repair(lake).find_due()]


def test_table_that_may_not_be_written_holds_up_no_other(folder):
    lake = build_lake(folder)
    lake.set_properties(STUDY, {"delta.appendOnly": "true"})
    changed = repair(lake).run()
    assert set(changed) >= {"change_feed", "instance", "series"}
    assert STUDY.name not in changed
    assert read_tables(lake)["instance"] == reference.fold(read_entries(folder))["instance"]


def test_nothing_is_derived_from_a_feed_that_may_not_be_written(folder):
    lake = build_lake(folder)
    lake.set_properties(CHANGE_FEED, {"delta.appendOnly": "true"})
    assert repair(lake).run() == {}
