"""Every hour is materialised once it is due, also after nothing ran for days; none twice without cause."""

import json
import time
from datetime import timedelta

import dagster as dg
import pytest
from starlette.responses import Response

from dicom_assets.core.tables.change_feed import HOUR
from dicom_assets_tests.dagster_private import add_backfill, end_backfill, freeze_time
from dicom_assets_tests.defs.ticks import RANGE, key, open_automation
from dicom_assets_tests.law.world import CHAIN, START


@pytest.fixture
def world(tmp_path):
    with open_automation(tmp_path) as automation:
        yield automation


def test_hour_is_asked_for_once_it_has_been_closed_for_the_delay(world):
    world.store(0.5, 1)
    world.set_clock(1 + 14 / 60)
    assert world.tick("catch_up").hours == []
    world.set_clock(1 + 15 / 60)
    assert world.catch_up().hours == [[key(0)]]
    assert "is in the tables" not in world.cursors["catch_up"], "the UI shows it beside the run"
    tick = world.catch_up()
    assert tick.hours == []
    assert tick.told == "Every hour up to 2026-03-01 01:00Z is in the tables."
    assert tick.questions == 0
    world.check_law()


def test_three_days_without_a_tick_are_caught_up_in_ranges_newest_first_each_hour_once(world):
    world.settings = {"DICOM_CATCH_UP_HOURS_PER_RUN": "30", "DICOM_CATCH_UP_RUNS": "2"}
    for hour in range(0, 75, 5):
        world.store(hour + 0.5, hour)
    world.set_clock(2.3)
    world.catch_up()
    world.set_clock(74.3)
    asked_for = [world.catch_up().hours, world.catch_up().hours, world.catch_up().hours]
    last, middle, first = [key(44), key(73)], [key(14), key(43)], [key(2), key(13)]
    assert [[[run[0], run[-1]] for run in tick] for tick in asked_for] == [[last, middle], [first], []]
    assert world.times_materialized() == {key(hour): 1 for hour in range(74)}
    assert len(world.instance.get_runs()) == 4
    world.check_law()


def test_hours_in_runs_that_wait_are_not_asked_for_again_and_only_so_many_runs_wait(world):
    world.settings = {"DICOM_CATCH_UP_HOURS_PER_RUN": "2", "DICOM_CATCH_UP_RUNS": "2"}
    world.set_clock(7.3)
    tick = world.tick("catch_up")
    assert tick.hours == [[key(5), key(6)], [key(3), key(4)]]
    assert tick.requests[0].tags["hours"] == "2026-03-01 05:00–07:00Z"
    assert not any("dicom_assets/attempt" in request.tags for request in tick.requests)
    runs = [create_run(world, request) for request in tick.requests]
    tick = world.tick("catch_up")
    assert tick.hours == []
    assert tick.told.startswith("3 hours wait until one of 2 runs has ended; 4 hours in runs that ")
    with freeze_time(world.clock()):
        world.instance.report_run_canceled(runs[1])
    assert world.tick("catch_up").hours == [[key(1), key(2)]]


def create_run(world, request) -> dg.DagsterRun:
    """A run as the daemon creates it; it runs."""
    job = world.definitions().resolve_job_def("hours")
    tags = {**job.tags, **request.tags}
    return world.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)


def test_run_that_failed_is_tried_again_later_and_later_in_halves_until_the_bad_hour_is_alone(world):
    world.set_clock(4.3)
    bad = break_hour(world, 1)
    asked_for = []
    for minutes in (0, 4, 6, 9, 11):
        world.set_clock(4.3 + minutes / 60)
        tick = world.tick("catch_up")
        asked_for.append(tick.hours)
        for request, hours in zip(tick.requests, tick.hours, strict=True):
            world.run(request, fails=key(1) in hours)
    everything = [key(hour) for hour in range(4)]
    assert asked_for == [[everything], [], [everything[2:], everything[:2]], [], []]
    derived = CHAIN[1:]  # change_feed tells of the hours before the bad one, though its run failed
    assert world.times_materialized(derived) == {key(2): 1, key(3): 1}
    told = world.tick("catch_up").told
    assert told is not None
    assert told.startswith("2 hours in runs that did not succeed, requested again from 2026-03-01 04:")
    world.set_clock(4.3 + 17 / 60)
    tick = world.tick("catch_up")
    assert tick.hours == [[key(1)], [key(0)]]
    assert [request.tags["dicom_assets/attempt"] for request in tick.requests] == ["3", "3"]
    bad.clear()
    world.follow(tick)
    assert world.catch_up().hours == []
    assert world.times_materialized(derived) == {key(hour): 1 for hour in range(4)}


def break_hour(world, hour: int) -> set:
    """The service gives an entry without a UID in this hour, until what is returned is cleared."""
    broken = {hour}

    def answer(request):
        start = request.query_params.get("startTime", "")
        if not broken or not start.startswith(f"2026-03-01T{hour:02}:"):
            return None
        entry = {"sequence": 1, "action": "Create", "state": "Current", "timestamp": start}
        return Response(json.dumps([entry]), media_type="application/json")

    world.answer = answer
    return broken


def test_service_that_is_down_is_a_reason_and_no_run(world):
    up = world.url
    world.url = "http://127.0.0.1:9"
    world.set_clock(1.3)
    assert world.tick("catch_up").told.startswith("1 hour waits for the DICOM service.")
    world.set_clock(3.3)
    tick = world.tick("catch_up")
    assert tick.requests == []
    assert tick.told.startswith("3 hours wait for the DICOM service. Change feed request failed: no answer")
    world.url = up
    assert world.catch_up().hours == [[key(0), key(1), key(2)]]


def test_hour_that_was_read_while_it_was_open_is_read_again_when_it_is_due(world):
    world.store(0.2, 1)
    world.set_clock(0.5)
    world.run(dg.RunRequest(partition_key=key(0)))
    world.store(0.9, 2)
    world.set_clock(1.2)
    world.run(dg.RunRequest(partition_key=key(0)))  # by hand, in the minutes before it is due
    assert world.catch_up().hours == []
    world.set_clock(1.3)
    assert world.catch_up().hours == [[key(0)]]
    assert world.catch_up().hours == []
    world.check_law()


def test_lost_or_foreign_cursor_finds_the_same(world, capfd):
    world.set_clock(3.3)
    world.run(request_range(0, 1))
    for cursor in (None, "not JSON", '{"version": 0}', '{"version": 1, "more": 2}', '{"version": 2}'):
        world.cursors["catch_up"] = cursor
        assert world.tick("catch_up").hours == [[key(2)]]
        assert '"version":1' in world.cursors["catch_up"]
        said = "The cursor of this sensor cannot be read" in capfd.readouterr().err
        assert said is (cursor is not None)


def request_range(first: int, last: int) -> dg.RunRequest:
    return dg.RunRequest(tags=dict(zip(RANGE, (key(first), key(last)), strict=True)))


def test_materialisations_that_a_person_deletes_are_made_again(world):
    world.set_clock(2.3)
    world.catch_up()
    world.catch_up()
    world.instance.wipe_assets([dg.AssetKey(name) for name in CHAIN])
    world.clock.advance(timedelta(minutes=10))
    assert world.catch_up().hours == [[key(0), key(1)]]


def test_first_hour_in_the_future_says_when_it_is_read(world):
    world.settings = {"DICOM_START_TIME": "2026-03-02T00:00Z"}
    world.set_clock(2.3)
    tick = world.tick("catch_up")
    assert tick.requests == []
    assert tick.told == (
        "No hour is due yet: the first, 2026-03-02 00:00Z (DICOM_START_TIME), is read at 2026-03-02 01:15Z."
    )


def test_no_hour_after_the_end_is_asked_for(world):
    world.settings = {"DICOM_END_TIME": "2026-03-01T02:00Z"}
    world.set_clock(30)
    assert world.catch_up().hours == [[key(0), key(1)]]
    assert world.catch_up().hours == []


def test_clock_that_is_put_back_asks_for_nothing_twice(world):
    world.set_clock(5.3)
    world.catch_up()
    world.set_clock(2.3)
    assert world.catch_up().hours == []
    world.set_clock(6.3)
    assert world.catch_up().hours == [[key(5)]]


def test_hours_are_those_of_utc_on_a_machine_in_another_zone(world, monkeypatch):
    monkeypatch.setenv("TZ", "America/St_Johns")  # half an hour off, and with summer time: it begins at hour 175.5
    time.tzset()
    try:
        world.settings = {"DICOM_START_TIME": (START + 170 * HOUR).isoformat()}
        world.store(172.5, 1)
        world.set_clock(180.3)
        assert world.catch_up().hours == [[key(hour) for hour in range(170, 180)]]
        world.check_law()
        assert world.catch_up().hours == []
        world.store(180.2, 2)
        assert world.look().hours == [[key(180)]]
        world.check_law()
    finally:
        monkeypatch.undo()
        time.tzset()


def launch_backfill(world, first: int, last: int):
    """A backfill of `instance` that has no run yet."""
    at = world.clock().timestamp()
    return add_backfill(world.instance, world.definitions(), "instance", key(first), key(last), at=at)


def test_hours_of_a_persons_backfill_are_left_to_it(world):
    world.set_clock(4.3)
    backfill = launch_backfill(world, 1, 2)
    assert world.tick("catch_up").hours == [[key(3)], [key(0)]]
    end_backfill(world.instance, backfill, "COMPLETED_SUCCESS")
    assert world.tick("catch_up").hours == [[key(hour) for hour in range(4)]]


def test_a_backfill_that_ends_is_noticed_at_once(world):
    world.set_clock(2.3)
    backfill = launch_backfill(world, 0, 1)
    assert world.tick("catch_up").told == "2 hours in a backfill"
    end_backfill(world.instance, backfill, "CANCELED")
    world.clock.advance(timedelta(seconds=30))
    assert world.tick("catch_up").hours == [[key(0), key(1)]]


def test_catch_up_can_be_turned_off(world):
    world.settings = {"DICOM_CATCH_UP_RUNS": "0"}
    assert [sensor.name for sensor in world.definitions().sensors or []] == ["change_feed_sensor"]
