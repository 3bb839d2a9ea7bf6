"""A Dagster instance that knows nothing is told what is in the lake; a lake that is not Dagster's is noticed."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest
from deltalake import write_deltalake
from rich.console import Console
from starlette.responses import Response

from dicom_assets.cli.adopt import run_adopt
from dicom_assets.config.connections import build_lake
from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES
from dicom_assets.core.columns.schema import TABLES as ALL_TABLES
from dicom_assets.core.errors import (
    CommitConflictError,
    LakeError,
    LakeLostError,
    OtherServiceError,
    ServiceRefusedError,
    SettingsError,
    UnknownHourError,
)
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.automation import adoption, adoption_plan
from dicom_assets.doctor.orchestration import check_lake
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets_tests.dagster_private import freeze_time
from dicom_assets_tests.defs.ticks import HOME, QUIET, RANGE, Automation, create_home, key, open_automation
from dicom_assets_tests.law.world import CHAIN, START, derivation, environment_of, hours
from dicom_assets_tests.processes import clean_environment, run_command

TABLES = {table.name: table for table in ALL_TABLES}
HOURS = 30
BUSY_HOURS = (0, 1, 5, 26)
"""Hours with changes; the others are empty."""


@dataclass
class Move:
    """A lake that is filled, and homes of Dagster that may have never seen it."""

    world: Automation
    folder: Path
    homes: list[dg.DagsterInstance] = field(default_factory=list)

    @property
    def home(self) -> str:
        return self.world.instance.root_directory

    def to_new_dagster(self) -> None:
        home = create_home(self.folder / f"home{len(self.homes)}")
        self.homes.append(dg.DagsterInstance.from_config(str(home)))
        self.world.instance = self.homes[-1]
        self.world.cursors.clear()

    def adopt(self, **options) -> str:
        """What it said; Dagster's own clock goes by that of the test, and on by some seconds."""
        clock = self.world.clock
        clock.advance(timedelta(seconds=1))
        forgotten_at, wipe = clock(), adoption.forget

        def forget(*arguments) -> None:
            with freeze_time(forgotten_at):
                wipe(*arguments)

        clock.advance(timedelta(seconds=1))
        said = StringIO()
        settings = self.world.load_settings()
        console = Console(file=said, width=200)
        with freeze_time(clock()), patch.object(adoption, "forget", forget):
            run_adopt(console, settings, home=self.home, now=clock, **options)
        return said.getvalue()

    def known(self, name: str) -> set[str]:
        return set(self.world.instance.get_materialized_partitions(dg.AssetKey(name)))

    def lake(self):
        return build_lake(self.world.load_settings())

    @property
    def lake_folder(self) -> Path:
        return self.folder / "lake"


def fill_service(world: Automation) -> None:
    for hour in BUSY_HOURS:
        for number in range(3):
            world.store(hour + 0.1 + number / 10, 10 * hour + number)
    world.set_clock(HOURS + 0.3)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Iterator[Path]:
    """Thirty hours of a service in a lake, all materialised: the folders of the lake and of Dagster."""
    folder = tmp_path_factory.mktemp("filled")
    with open_automation(folder, in_memory=False) as world:
        fill_service(world)
        assert world.catch_up().hours == [[key(hour) for hour in range(HOURS)]]
    return folder


@pytest.fixture
def move(tmp_path, filled) -> Iterator[Move]:
    """The lake as it was filled, its service, and the Dagster instance that filled it."""
    shutil.copytree(filled / "lake", tmp_path / "lake")
    shutil.copytree(filled / "dagster", tmp_path / "dagster")
    with (
        Service(seed=1) as service,
        dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), HOME) as instance,
    ):
        world = Automation(tmp_path, service, instance)
        fill_service(world)
        with serve(service, intercept=world.intercept) as world.url:
            moved = Move(world, tmp_path)
            yield moved
            for home in moved.homes:
                home.dispose()


ALL = {key(hour) for hour in range(HOURS)}


# An empty Dagster instance over a filled lake


def test_new_dagster_is_told_of_every_hour_and_reads_none_again(move):
    before = {name: move.lake().version(table) for name, table in TABLES.items()}
    move.to_new_dagster()
    assert "30    │ 2026-03-01 00:00–2026-03-02 06:00Z │ in the lake" in move.adopt(dry_run=True)
    assert not any(move.known(name) for name in CHAIN)
    move.world.questions.clear()
    assert "30 hours were reported" in move.adopt()
    assert {name: move.known(name) for name in CHAIN} == dict.fromkeys(CHAIN, ALL)
    assert len(move.world.questions) == 2  # one for each day
    assert move.world.catch_up().hours == []
    assert move.world.look().hours == []
    assert {name: move.lake().version(table) for name, table in TABLES.items()} == before
    move.world.check_law()


def test_hours_after_the_move_are_all_that_is_asked_for(move):
    move.to_new_dagster()
    move.world.store(HOURS + 1.5, 500)
    move.world.set_clock(HOURS + 2.3)
    said = move.adopt()
    assert "31 hours were reported" in said
    assert "not in the lake, or the service has more entries: left to be read" in said
    assert move.known("study") == ALL | {key(HOURS)}  # the one without changes is in the lake as well
    assert move.world.catch_up().hours == [[key(HOURS + 1)]]
    assert move.world.look().hours == []
    move.world.check_law()


def test_entries_that_came_late_before_and_after_the_move_are_read(move):
    move.world.store(5.9, 501)
    move.to_new_dagster()
    move.adopt()
    assert move.known("change_feed") == ALL - {key(5)}
    move.world.store(26.9, 502)
    move.world.store(7.5, 503)  # in an hour that was empty
    assert move.world.catch_up().hours == [[key(5)]]
    assert move.world.look().hours == [[key(26)], [key(7)]]
    move.world.check_law()


def test_range_is_all_that_is_looked_at_and_what_is_known_is_not_told_again(move):
    move.to_new_dagster()
    move.adopt(since=START + HOUR, until=START + 7 * HOUR)
    assert move.known("series") == {key(hour) for hour in range(1, 7)}
    asked = len(move.world.questions)
    assert "24 hours were reported" in move.adopt()
    assert len(move.world.questions) == asked + 2
    assert "0 hours were reported" in move.adopt()
    assert len(move.world.questions) == asked + 2
    assert move.world.times_materialized() == dict.fromkeys(ALL, 1)


@pytest.mark.parametrize("batch", ["0", "50"])
def test_adoption_that_was_interrupted_goes_on_with_the_rest(move, monkeypatch, batch):
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", batch)
    monkeypatch.setattr(adoption, "HOURS_AT_ONCE", 4)
    move.to_new_dagster()
    told = adoption.tell

    def stop_early(*arguments):
        for done in told(*arguments):
            yield done
            if done >= 12:
                raise KeyboardInterrupt

    monkeypatch.setattr(adoption, "tell", stop_early)
    with pytest.raises(KeyboardInterrupt):
        move.adopt()
    assert move.known("study") == {key(hour) for hour in range(HOURS - 12, HOURS)}
    monkeypatch.undo()
    assert "18 hours were reported" in move.adopt()
    assert move.world.times_materialized() == dict.fromkeys(ALL, 1)


def test_hours_of_a_table_that_does_not_agree_are_made_again(move):
    move.lake().open(SERIES).connect().delete()
    move.to_new_dagster()
    said = move.adopt()
    assert "tables do not agree (series): left to be read" in said
    changed = {key(hour) for hour in BUSY_HOURS}  # all of one study
    assert move.known("instance") == ALL
    assert move.known("series") == ALL - changed
    assert move.known("study") == ALL
    assert {hour for run in move.world.catch_up().hours for hour in run} == changed
    move.world.check_law()


def test_table_that_instance_disagrees_with_holds_back_what_is_made_from_it(move):
    move.lake().open(INSTANCE).connect().delete("sopInstanceUid = '1.1.1.52'")
    move.to_new_dagster()
    move.adopt()
    changed = {key(hour) for hour in BUSY_HOURS}
    assert {name: ALL - move.known(name) for name in CHAIN} == dict.fromkeys(CHAIN, changed) | {"change_feed": set()}


def test_table_that_is_not_there_is_adopted_for_no_hour(move):
    shutil.rmtree(move.lake().uri(FILE_INDEX))
    move.to_new_dagster()
    move.adopt()
    assert move.known("study") == ALL
    assert move.known("file_index") == set()


def test_table_of_the_profile_is_adopted_watched_and_missed_like_the_others(move):
    move.world.settings["DICOM_TABLE_PROFILE"] = "healthcare-data-solutions"
    name = HEALTHCARE_INSTANCE.name
    move.lake().write(HEALTHCARE_INSTANCE, derivation(move.lake(), name, hours(0, HOURS)))
    move.lake().open(HEALTHCARE_INSTANCE).connect().delete("sopinstanceuid = '1.1.1.52'")
    assert f"do not agree in {name}. " in run_audit(move)
    move.to_new_dagster()
    assert f"tables do not agree ({name}): left to be read" in move.adopt()
    changed = {key(hour) for hour in BUSY_HOURS}
    assert {asset for asset in CHAIN if move.known(asset) != ALL} == set()
    assert ALL - move.known(name) == changed
    assert {hour for run in move.world.catch_up().hours for hour in run} == changed
    assert run_audit(move) is None
    shutil.rmtree(move.lake().uri(HEALTHCARE_INSTANCE))
    move.world.store(HOURS + 0.5, 500)
    move.world.set_clock(HOURS + 1.3)
    assert f"{name} is not at" in move.world.tick("catch_up").told
    move.adopt(forgetting=True)
    assert (move.known("study"), move.known(name)) == (ALL, set())


def test_hours_of_runs_under_way_are_left_to_them(move):
    move.to_new_dagster()
    job = move.world.definitions().resolve_job_def("hours")
    tags = {**job.tags, **dict(zip(RANGE, (key(3), key(4)), strict=True))}
    move.world.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert "in runs that wait or run: left to these" in move.adopt()
    assert move.known("instance") == ALL - {key(3), key(4)}
    with pytest.raises(CommitConflictError, match="2 hours are in runs that wait or run"):
        move.adopt(forgetting=True)


def test_lake_that_is_written_meanwhile_proves_nothing(move, monkeypatch):
    move.to_new_dagster()
    find = adoption_plan.find_disagreeing

    def write_meanwhile(lake, tables):
        lake.open(SERIES).connect().delete()
        return find(lake, tables)

    monkeypatch.setattr(adoption_plan, "find_disagreeing", write_meanwhile)
    with pytest.raises(CommitConflictError, match="series was written while it was looked at"):
        move.adopt()
    assert move.known("change_feed") == set()


def test_lake_of_another_service_is_not_adopted(move):
    move.to_new_dagster()
    with Service(seed=2) as other, serve(other) as move.world.url:
        for number in range(9):
            other.store_metadata({**METADATA, "00080018": {"vr": "UI", "Value": [f"1.{number}"]}}, at=START + HOUR)
        with pytest.raises(OtherServiceError, match="last entry is not that of the lake"):
            move.adopt(until=START + 10 * HOUR)
    with Service(seed=2) as empty, serve(empty) as move.world.url:
        with pytest.raises(OtherServiceError, match="it has fewer than the 9 entries that the lake holds"):
            move.adopt(until=START + 10 * HOUR)
    assert move.known("change_feed") == set()


METADATA = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in (("0020000D", "1.1"), ("0020000E", "1.1.1"))}


def test_feed_with_doubled_rows_proves_nothing(move):
    feed = move.lake().open(CHANGE_FEED)
    write_deltalake(feed.connect(), feed.read_table().slice(0, 1), mode="append")
    move.to_new_dagster()
    with pytest.raises(OtherServiceError, match="or change_feed has rows twice"):
        move.adopt()
    with pytest.raises(LakeError, match="change_feed has several rows of the same entry"):
        move.adopt(since=START + 20 * HOUR)
    assert move.known("change_feed") == set()


def test_service_that_refuses_is_no_proof(move):
    move.to_new_dagster()
    move.world.answer = lambda request: Response(status_code=403)
    with pytest.raises(ServiceRefusedError):
        move.adopt()
    assert move.known("change_feed") == set()


def test_range_without_an_hour_and_a_range_to_forget_are_refused(move):
    with pytest.raises(UnknownHourError, match=r"between 2026-03-02 06:00Z and 2026-03-02 06:00Z.*DICOM_START_TIME"):
        move.adopt(since=START + HOURS * HOUR)
    with pytest.raises(UnknownHourError, match="Hours begin with 2026-03-01 00:00Z"):
        move.adopt(since=START - HOUR)
    with pytest.raises(SettingsError, match="Leave the range out"):
        move.adopt(since=START, forgetting=True)


def adopt_by_command(move, *arguments, **env):
    settings = {
        **environment_of(move.world.url, HOURS),
        "DICOM_STORAGE_URL": str(move.lake_folder),
        "DAGSTER_HOME": move.home,
        "COLUMNS": "200",
    }
    return run_command("adopt", *arguments, env=clean_environment(**settings | env))


def test_command_works_on_the_home_of_dagster_and_says_what_is_wrong(move):
    move.to_new_dagster()
    done = adopt_by_command(move, "--since", "2026-03-01T04:00Z", "--until", "2026-03-01T09:00+02:00")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 hours were reported" in done.stdout
    assert move.known("study") == {key(4), key(5), key(6)}
    bare = adopt_by_command(move, DAGSTER_HOME="")
    assert (bare.returncode, bare.stdout) == (1, "")
    assert bare.stderr.startswith("Error: DAGSTER_HOME is not set. Set DAGSTER_HOME to a folder")
    half = adopt_by_command(move, "--since", "2026-03-01T04:30Z")
    assert half.returncode == 2
    assert "full hours of UTC" in half.stderr


# A lake that is not the one that Dagster's history is of


def lose_lake(move) -> None:
    shutil.rmtree(move.lake_folder)


def restore_older(move) -> None:
    """Five more hours run, then the lake is as it was before them; the clock is three hours further."""
    shutil.copytree(move.lake_folder, move.folder / "backup")
    move.world.store(HOURS + 0.5, 600)
    move.world.set_clock(HOURS + 1.3)
    assert move.world.catch_up().hours == [[key(HOURS)]]
    move.world.check_law()
    shutil.rmtree(move.lake_folder)
    (move.folder / "backup").rename(move.lake_folder)


def replace_lake(move) -> None:
    """Another lake lies there, with tables that have seen more commits."""
    shutil.rmtree(move.lake_folder)
    other = Automation(move.folder, move.world.service, dg.DagsterInstance.ephemeral(tempdir=str(move.folder)))
    other.url = move.world.url
    other.set_clock(HOURS + 0.3)
    for hour in BUSY_HOURS:
        other.run(dg.RunRequest(partition_key=key(hour)))
    other.instance.dispose()


LOSSES = {
    lose_lake: "change_feed is not at",
    restore_older: "change_feed is at version 1, and was at 2 when it was last written",
    replace_lake: "is another table of that name",
}


@pytest.mark.parametrize("lose", LOSSES)
def test_lake_that_is_not_dagsters_stops_sensors_and_runs_until_dagster_forgets(move, lose):
    lose(move)
    move.world.store(HOURS + 1.2, 601)
    move.world.set_clock(HOURS + 2.3)
    tick = move.world.tick("catch_up")
    assert tick.hours == []
    assert re.search(r"waits? for the lake\. The lake is not the one that Dagster's history is of: ", tick.told)
    assert LOSSES[lose] in tick.told
    assert "dicom-assets adopt --forget" in tick.told
    move.world.store(HOURS + 2.2, 602)
    tick = move.world.tick("change_feed_sensor")
    assert (tick.hours, tick.told[:12]) == ([], "The lake is ")
    before = sorted(move.folder.glob("lake/**/*.json"))
    move.world.run(dg.RunRequest(partition_key=key(HOURS + 1)), fails=True)  # by hand
    assert sorted(move.folder.glob("lake/**/*.json")) == before
    assert run_doctor(move) == ("red", LOSSES[lose])
    assert LOSSES[lose] in run_audit(move)
    move.adopt(forgetting=True)
    move.world.cursors.clear()
    move.world.clock.advance(HOUR)
    assert move.world.catch_up().hours != []
    assert run_doctor(move)[0] == "green"
    assert run_audit(move) is None
    move.world.check_law()


def run_doctor(move) -> tuple[str, str]:
    """Status and the part of the finding that tells the losses apart."""
    surroundings = Surroundings(move.world.load_settings, move.world.clock, instance=move.world.instance)
    try:
        check_lake(surroundings)
    except LakeLostError as error:
        return "red", next(text for text in LOSSES.values() if text in str(error))
    return "green", ""


def run_audit(move) -> str | None:
    job = move.world.definitions().resolve_job_def("audit_lake")
    result = job.execute_in_process(instance=move.world.instance, raise_on_error=False, run_config=QUIET)
    failure = next((event.step_failure_data for event in result.all_events if event.is_step_failure), None)
    return None if failure is None else failure.user_failure_data.description


def test_older_lake_is_read_again_in_the_hours_that_it_lacks_only(move):
    restore_older(move)
    said = move.adopt(forgetting=True)
    assert "Dagster has forgotten" in said
    assert move.known("study") == ALL
    move.world.cursors.clear()
    assert move.world.catch_up().hours == [[key(HOURS)]]
    assert move.world.catch_up().hours == []
    move.world.check_law()


def test_lake_that_is_gone_is_nothing_to_adopt_unless_dagster_is_to_forget(move):
    lose_lake(move)
    move.world.url = "http://127.0.0.1:9"  # nor is there anything to ask the service
    with pytest.raises(LakeLostError, match="so there is nothing to report"):
        move.adopt()
    assert move.known("study") == ALL
    move.adopt(forgetting=True, dry_run=True)
    assert move.known("study") == ALL
    move.adopt(forgetting=True)
    assert move.known("study") == set()


def test_hours_without_their_rows_are_found_by_the_audit_although_tables_agree(move):
    for table in move.lake().open(CHANGE_FEED), move.lake().open(INSTANCE):
        table.connect().delete("sopInstanceUid IN ('1.1.1.260', '1.1.1.51')")
    move.world.run(dg.RunRequest(tags=dict(zip(RANGE, (key(0), key(1)), strict=True))))  # makes the other tables agree
    message = run_audit(move)
    assert message.startswith(
        "change_feed lacks entries that were stored, of 2 hours between 2026-03-01 05:00Z and 2026-03-02 02:00Z"
    )
    move.adopt(forgetting=True)
    move.world.cursors.clear()
    assert move.world.catch_up().hours == [[key(26)], [key(5)]]
    assert run_audit(move) is None
    move.world.check_law()


def test_table_made_from_others_may_be_deleted_and_made_again_by_hand(move):
    shutil.rmtree(move.lake().uri(SERIES))
    move.world.store(HOURS + 0.5, 700)
    move.world.set_clock(HOURS + 1.3)
    assert "series is not at" in move.world.tick("catch_up").told
    job = move.world.definitions().resolve_implicit_global_asset_job_def()
    tags = dict(zip(RANGE, (key(0), key(HOURS - 1)), strict=True))
    assert job.execute_in_process(
        instance=move.world.instance, tags=tags, asset_selection=[dg.AssetKey("series")], run_config=QUIET
    ).success
    assert move.world.catch_up().hours == [[key(HOURS)]]
    move.world.check_law()
