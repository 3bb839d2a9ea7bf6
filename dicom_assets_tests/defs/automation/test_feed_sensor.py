"""What is new in the open hour, and late in hours that were read, is found and read; nothing else."""

import gzip
import socket
from datetime import timedelta

import dagster as dg
import pytest
from starlette.responses import Response

from dicom_assets.config.connections import build_lake
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets.defs.automation import feed_sensor
from dicom_assets_tests.defs.ticks import RANGE, key, open_automation
from dicom_assets_tests.law.world import START


@pytest.fixture
def world(tmp_path):
    with open_automation(tmp_path) as automation:
        yield automation


def set_minutes(world, minutes: float) -> None:
    world.set_clock(minutes / 60)


def test_open_hour_is_read_when_it_has_new_entries_and_one_question_is_asked_when_nothing_moved(world):
    set_minutes(world, 10)
    assert world.look().hours == []
    world.store(0.2, 1)
    set_minutes(world, 13)
    assert world.look().hours == [[key(0)]]
    world.check_law()
    set_minutes(world, 14)
    assert world.look().questions == 2  # whether the run has brought it
    set_minutes(world, 15)
    tick = world.look()
    assert (tick.hours, tick.questions) == ([], 1)
    assert "the newest entry is sequence 1, of 2026-03-01T00:12:00.0000000Z" in tick.told
    world.store(0.24, 2)
    set_minutes(world, 16)
    assert world.look().hours == [[key(0)]]
    world.check_law()


def test_open_hour_can_be_read_while_entries_keep_arriving(world):
    world.settings = {"DICOM_BATCH_SIZE": "3"}
    for number in range(10):
        world.store(0.1, number)
    set_minutes(world, 10)

    def store_one_more(request):
        world.store(0.2, 100 + len(world.questions))

    world.answer = store_one_more
    assert world.look().hours == [[key(0)]]
    assert world.times_materialized() == {key(0): 1}
    world.answer = lambda request: None
    set_minutes(world, 13)
    assert world.look().hours == [[key(0)]]
    world.check_law()


def test_entries_of_the_last_minute_of_an_hour_do_not_wait_for_the_hour_to_be_due(world):
    world.store(0.5, 1)
    set_minutes(world, 59)
    world.look()
    world.store(0.99, 2)
    world.store(1.001, 3)
    set_minutes(world, 61)
    assert world.look().hours == [[key(0), key(1)]]
    world.check_law()


def test_open_hour_in_a_run_is_not_asked_for_again_and_not_forgotten(world):
    world.store(0.1, 1)
    set_minutes(world, 10)
    (request,) = world.tick("change_feed_sensor").requests
    job = world.definitions().resolve_job_def("hours")
    run = world.instance.create_run_for_job(job, tags={**job.tags, **request.tags}, status=dg.DagsterRunStatus.STARTED)
    world.store(0.2, 2)
    set_minutes(world, 13)
    tick = world.look()
    assert tick.hours == []
    assert "A run of its hour is queued or in progress" in tick.told
    world.instance.delete_run(run.run_id)
    set_minutes(world, 14)
    assert world.look().hours == [[key(0)]]


def test_open_hour_whose_run_fails_is_tried_again_later_and_later(world):
    world.store(0.01, 1)
    failed_at = []
    for minute in range(2, 60):
        set_minutes(world, minute)
        for request in world.tick("change_feed_sensor").requests:
            world.answer = lambda request: Response(status_code=403)
            world.run(request, fails=True)
            world.answer = lambda request: None
            failed_at.append((minute, request.tags.get("dicom_assets/attempt")))
    assert failed_at == [(2, None), (7, "2"), (17, "3"), (37, "4")]


def test_a_new_open_hour_does_not_wait_with_one_whose_run_failed(world):
    world.store(0.9, 1)
    set_minutes(world, 56)
    (request,) = world.tick("change_feed_sensor").requests
    world.answer = lambda request: Response(status_code=403)
    world.run(request, fails=True)
    world.answer = lambda request: None
    world.store(1.01, 2)
    set_minutes(world, 62)
    assert world.tick("change_feed_sensor").hours == [[key(1)], [key(0)]]


def read_hours(world, count: int) -> None:
    """All hours are due and read, and a sweep has found nothing late."""
    world.set_clock(count + 1)
    world.run(dg.RunRequest(tags=dict(zip(RANGE, (key(0), key(count - 1)), strict=True))))
    assert world.look().hours == []


def test_late_entry_reruns_its_hour_and_no_other(world):
    for hour in range(5):
        world.store(hour + 0.5, hour)
    read_hours(world, 5)
    world.store(1.7, 17)  # sequence and commit are newer than all, its time is not: `latest` does not show it
    world.store(3.2, 32)
    world.clock.advance(timedelta(minutes=5))
    assert world.look().questions == 1
    world.clock.advance(timedelta(minutes=5))
    assert world.look().hours == [[key(3)], [key(1)]]
    assert world.times_materialized() == {key(0): 1, key(1): 2, key(2): 1, key(3): 2, key(4): 1}
    world.check_law()
    world.clock.advance(timedelta(minutes=10))
    assert world.look().hours == []


def test_late_entry_is_found_after_days_without_a_tick(world):
    read_hours(world, 3)
    world.store(0.5, 1)
    world.clock.advance(timedelta(days=3))
    assert world.look().hours == [[key(0)]]


def test_hours_are_watched_as_long_as_the_setting_says(world):
    world.settings = {"DICOM_LOOK_BACK_HOURS": "2"}
    read_hours(world, 3)
    world.clock.advance(timedelta(minutes=15))  # 04:15: the sweep covers hours that were due by 04:05
    world.look()
    world.store(0.5, 1)
    world.store(2.5, 2)
    world.clock.advance(timedelta(minutes=10))
    assert world.look().hours == [[key(2)]]


def test_a_late_entry_in_an_hour_that_is_being_run_is_looked_at_again_later(world):
    world.settings = {"DICOM_LOOK_BACK_HOURS": "1"}
    read_hours(world, 3)
    job = world.definitions().resolve_job_def("hours")
    tags = {**job.tags, "dagster/partition": key(2)}
    run = world.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    world.store(2.5, 1)
    for _ in range(3):
        world.clock.advance(timedelta(hours=1))
        assert world.look().hours == []
    world.instance.delete_run(run.run_id)
    world.clock.advance(timedelta(minutes=10))
    assert world.look().hours == [[key(2)]]


def test_many_hours_are_asked_about_over_several_ticks_with_few_questions_each(world, monkeypatch):
    monkeypatch.setattr(feed_sensor, "QUESTIONS_PER_TICK", 4)
    count = 10
    for table in TABLES:
        build_lake(world.load_settings()).open_or_create(table)
        for hour in range(count):
            event = dg.AssetMaterialization(
                table.name, partition=key(hour), metadata={"dagster/partition_row_count": 0}
            )
            world.instance.report_runless_asset_event(event)
    world.store(1.5, 1)
    world.set_clock(count + 1)
    ticks = []
    while not ticks or ticks[-1].questions > 1:
        ticks.append(world.tick("change_feed_sensor"))
        world.clock.advance(timedelta(minutes=1))
        assert len(ticks) < 10
    assert all(tick.questions <= 5 for tick in ticks)
    assert [tick.hours for tick in ticks if tick.hours] == [[[key(1)]]]


def test_a_backlog_of_any_size_is_not_read(world):
    for number in range(1000):
        world.store(0.5, number)
    set_minutes(world, 40)
    tick = world.tick("change_feed_sensor")
    assert tick.hours == [[key(0)]]
    assert tick.questions == 2
    assert [request.query_params.get("limit") for request in world.questions] == [None, "1"]
    assert all(request.query_params["includeMetadata"] == "false" for request in world.questions)


@pytest.mark.parametrize(
    ("status", "said"), [(403, 'grant it the "DICOM Data Reader" role'), (503, "The service is busy, or cannot be")]
)
def test_refusal_and_outage_are_reasons_and_keep_the_cursor(world, status, said):
    read_hours(world, 2)
    cursor = world.cursors["change_feed_sensor"]
    world.store(3.1, 1)
    world.answer = lambda request: Response(status_code=status)
    world.clock.advance(timedelta(minutes=30))
    tick = world.look()
    assert tick.hours == []
    assert f"Change feed request failed: {status} for {world.url}" in tick.told
    assert said in tick.told
    assert tick.questions <= 2
    assert world.cursors["change_feed_sensor"] == cursor
    world.answer = lambda request: None
    assert world.look().hours == [[key(3)]]


def test_answer_without_end_is_a_reason_that_says_so(world):
    body = gzip.compress(b" " * 50_000_000)
    world.answer = lambda request: Response(body, headers={"Content-Encoding": "gzip"})
    world.set_clock(1)
    told = world.look().told
    assert "a body of more than 8 MiB once decoded" in told
    assert "decompression bomb" in told


def test_service_that_is_gone_is_a_reason(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        world.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        world.set_clock(1)
        tick = world.look()
    assert "Change feed request failed: no answer (ConnectError)" in tick.told


def test_cursor_of_another_version_starts_over_and_finds_late_entries_of_long_ago(world, capfd):
    world.store(0.5, 1)
    read_hours(world, 2)
    world.clock.advance(timedelta(days=9))
    world.look()
    world.store(0.6, 2)
    world.clock.advance(timedelta(days=1))
    assert world.look().hours == []
    world.cursors["change_feed_sensor"] = '{"version": 7, "sequence": 12}'
    assert world.look().hours == [[key(0)]]
    assert "The cursor of this sensor cannot be read" in capfd.readouterr().err
    assert '"version":1' in world.cursors["change_feed_sensor"]


def test_first_hour_in_the_future_asks_nothing(world):
    world.settings = {"DICOM_START_TIME": "2026-03-02T00:00Z"}
    world.set_clock(2)
    tick = world.look()
    assert tick.told == "No hour has begun yet: the first is 2026-03-02 00:00Z (DICOM_START_TIME)."
    assert tick.questions == 0


def test_clock_that_is_put_back_does_not_stop_the_watch(world):
    read_hours(world, 2)
    world.set_clock(24 * 365)
    world.look()
    world.set_clock(4)
    world.store(0.5, 1)
    assert world.look().hours == [[key(0)]]


@pytest.mark.parametrize(("settings", "seconds"), [({}, 60), ({"DICOM_SENSOR_INTERVAL_SECONDS": "300"}, 300)])
def test_feed_is_asked_once_a_minute_or_as_the_setting_says(world, settings, seconds):
    world.settings = settings
    (sensor,) = (each for each in world.definitions().sensors if each.name != "catch_up")
    assert sensor.minimum_interval_seconds == seconds


def test_sensor_that_is_off_leaves_the_open_hour_out_of_the_partitions(world):
    world.settings = {"DICOM_SENSOR_INTERVAL_SECONDS": "0"}
    definitions = world.definitions()
    assert [sensor.name for sensor in definitions.sensors or []] == ["catch_up"]
    hours = definitions.resolve_assets_def("change_feed").partitions_def
    with dg.partition_loading_context(effective_dt=START + 2.5 * HOUR):
        assert hours.get_last_partition_key() == key(1)


def test_open_hour_is_a_partition_while_the_sensor_is_on(world):
    hours = world.definitions().resolve_assets_def("change_feed").partitions_def
    with dg.partition_loading_context(effective_dt=START + 2.5 * HOUR):
        assert hours.get_last_partition_key() == key(2)


def test_hour_with_metadata_that_could_not_be_had_is_read_again_once_it_can(world):
    for number in range(3):
        world.store(0.1, number)
    world.service.break_metadata("1.1.1.1")
    world.set_clock(1.5)
    assert world.catch_up().hours == [[key(0)]]
    assert world.look().hours == []
    world.set_clock(2)
    assert world.look().hours == []
    world.service.heal_metadata("1.1.1.1")
    world.set_clock(2.5)
    assert world.look().hours == [[key(0)]]
    world.check_law()
    world.set_clock(3)
    assert world.look().hours == []
