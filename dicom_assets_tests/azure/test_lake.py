"""The whole job, the law and two writers, in an account of Azurite: with its key, and with tokens over https."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import dagster as dg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import STUDY, TABLES
from dicom_assets.core.tables.merge import Desired
from dicom_assets.definitions import build_definitions
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.identity.credentials import DICOM_SCOPE
from dicom_assets.lake.files import data_file
from dicom_assets.lake.files.folder import Files
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import FixedRows, Written
from dicom_assets.lake.upkeep import maintain
from dicom_assets_tests.azure.token_server import OUTLIVED_AFTER_SECONDS, SHORT_LIFE_SECONDS
from dicom_assets_tests.core.tables.rows import build_rows
from dicom_assets_tests.lakes.building import read, store, study
from dicom_assets_tests.law import reference
from dicom_assets_tests.law.test_order import HOURS, histories, play
from dicom_assets_tests.law.test_writers import CREATES, DELETES, run_both, schedules
from dicom_assets_tests.law.test_writers import play as apply_all
from dicom_assets_tests.law.world import (
    CHAIN,
    START,
    World,
    environment_of,
    hours,
    partition_keys,
    range_tags,
    read_tables,
)

KEYS = partition_keys(HOURS)
RANGE = range_tags(KEYS)
AUDIENCE = DICOM_SCOPE.removesuffix("/.default")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(seed=1, file_store=tmp_path_factory.mktemp("files")) as service:
        write_history(service, start=START, hours=HOURS, instances=60, seed=3)
        yield service


@pytest.fixture
def environment(service, signing, lake_settings):
    """Where the identity signs in to the lake, it signs in to the service too."""
    audience = None if signing["DICOM_AUTHENTICATION"] == "none" else AUDIENCE
    with serve(service, audience=audience) as url:
        yield {
            **environment_of(url, HOURS),
            **signing,
            **lake_settings,
            "DICOM_FILE_SYSTEM_URL": "/files",
        }


def run(configured: Settings, **how) -> dg.ExecuteInProcessResult:
    job = build_definitions(configured).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, **how)
    assert result.success
    return result


def versions(lake: Lake) -> list[int | None]:
    return [lake.version(table) for table in TABLES]


def test_whole_job_gives_the_tables_of_the_law_and_again_changes_nothing(environment, service):
    configured = load_settings(environment)
    run(configured, tags=RANGE)
    lake = build_lake(configured)
    assert read_tables(lake) == reference.fold(service.change_feed(limit=10**6))
    before = versions(lake)
    run(configured, partition_key=KEYS[2])
    assert versions(lake) == before


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_a_run_has_tokens_of_its_own_where_the_first_have_ended(environment, service, entra):
    entra.life_seconds = SHORT_LIFE_SECONDS
    configured = load_settings(environment)
    job = build_definitions(configured).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, tags=RANGE).success
        time.sleep(OUTLIVED_AFTER_SECONDS)
        assert job.execute_in_process(instance=instance, tags=RANGE).success
    assert read_tables(build_lake(configured)) == reference.fold(service.change_feed(limit=10**6))
    assert {request.audience for request in entra.requests} == {"https://storage.azure.com", AUDIENCE}


class Slow(FixedRows):
    """A derivation that takes longer than a token lives."""

    seconds = OUTLIVED_AFTER_SECONDS

    def build(self) -> Desired:
        time.sleep(self.seconds)
        return super().build()


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_commit_has_a_token_of_its_own_where_the_derivation_outlived_the_first(signing, lake_settings, entra):
    entra.life_seconds = SHORT_LIFE_SECONDS
    lake = build_lake(load_settings(signing | lake_settings))
    lake.open_or_create(STUDY)
    written = lake.write(STUDY, Slow(build_rows([study("1.2")], STUDY), STUDY))
    assert (written.inserted, written.commits, written.conflicts) == (1, 1, 0)
    assert [row["studyInstanceUid"] for row in read(lake)] == ["1.2"]


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_open_folder_outlives_its_first_token(signing, lake_settings, entra):
    entra.life_seconds = SHORT_LIFE_SECONDS
    folder = Files(build_lake(load_settings(signing | lake_settings)).storage, "study")
    folder.write_aside("a", b"content")
    time.sleep(OUTLIVED_AFTER_SECONDS)
    assert folder.read_aside("a") == b"content"


@pytest.fixture
def lakes(signing, lake_settings) -> Iterator[Lake]:
    """Any number of lakes in one container."""
    storage = build_lake(load_settings(signing | lake_settings)).storage
    paths = {table.name: table.name for table in TABLES}
    return (Lake(replace(storage, url=f"{storage.url}/{number}"), paths) for number in count(1))


few = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], database=None)


@given(history=histories, order=st.permutations(range(HOURS)))
@settings(few, max_examples=3, phases=[Phase.generate])
def test_tables_equal_the_reference_fold_after_any_history(lakes, history, order):
    with Service(seed=1) as service, pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_file, "JOINED_FILES", 2)
        world = World(service, next(lakes))
        play(world, history, order)
        assert read_tables(world.lake) == world.expected()


@given(schedule=schedules)
@settings(few, max_examples=3, phases=[Phase.generate])
def test_two_writers_leave_what_the_last_change_says_in_any_order_of_their_steps(lakes, schedule):
    """One has read a Create while its instance was alive; the other brings its Delete."""
    with Service(seed=1) as service:
        apply_all(service, CREATES)
        world = World(service, next(lakes))
        world.run("change_feed", hours(0))
        apply_all(service, DELETES)
        runs = [(CHAIN[1:], hours(0), world.read), (CHAIN, hours(1), world.read)]
        run_both(world.lake.storage, service, schedule, runs)
        assert read_tables(world.lake) == world.expected()


def test_two_writers_that_nobody_holds_back_both_get_their_rows_in(lakes):
    lake = next(lakes)
    lake.open_or_create(STUDY)
    with ThreadPoolExecutor(2) as threads:
        written = list(threads.map(lambda half: [store(lake, study(f"1.{half}.{n}")) for n in range(4)], (1, 2)))
    assert sum(one.inserted for half in written for one in half) == 8
    assert len(read(lake)) == 8


def test_services_that_share_a_table_write_at_once_and_upkeep_of_one_leaves_the_other_its_files(lakes):
    storage = next(lakes).storage
    north, south = (Lake(storage, {STUDY.name: STUDY.name}, scope=Scope(name)) for name in ("north", "south"))

    def write(lake: Lake) -> list[Written]:
        return [store(lake, study("1", patientSex=str(number)), study(f"1.{number}")) for number in range(4)]

    with ThreadPoolExecutor(2) as threads:
        written = list(threads.map(write, (north, south)))
    assert sum(one.conflicts for half in written for one in half) == 0
    of_south = {file.name for file in south.open(STUDY).folder.stored()}
    north.retention_hours = 0
    done = maintain(north, STUDY)
    assert (done.after.live_files, done.after.stored_files) == (1, 1)
    assert {file.name for file in south.open(STUDY).folder.stored()} == of_south
    assert read(north) == read(south)
    assert len(read(north)) == 5


@pytest.mark.parametrize("signing", ["client_secret"], indirect=True)
def test_upkeep_joins_small_files_and_deletes_what_is_old(lakes):
    lake = next(lakes)
    for number in range(12):
        store(lake, study(f"1.{number}"), study("2", patientSex=str(number)))
    rows = read(lake)
    lake.retention_hours = 0  # nothing is old yet
    planned = maintain(lake, STUDY, dry_run=True)
    done = maintain(lake, STUDY)
    assert planned.before == done.before, "the dry run changed something"
    assert planned.removed_files > 12
    assert done.removed_files == planned.removed_files + planned.joined_files
    assert (done.after.live_files, done.after.stored_files) == (1, 1)
    assert done.after.log_files < done.before.log_files
    assert done.oldest_version == done.after.version
    assert read(lake) == rows
    store(lake, study("3"))
    assert len(read(lake)) == len(rows) + 1
