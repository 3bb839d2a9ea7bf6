"""Runs that write the tables take turns, and leave their place however they end."""

import threading
from itertools import pairwise

import pytest
from starlette.requests import Request

from dicom_assets_tests.defs.deployment import KEYS, PATIENCE_SECONDS, Deployment, Held, wait_for
from dicom_assets_tests.law.world import CHAIN

POOL = "dicom_lake"


@pytest.fixture
def lake(deployed) -> Deployment:
    deployed.wipe()
    return deployed


def slots(lake: Deployment):
    return lake.instance.event_log_storage.get_concurrency_info(POOL)


def writes(lake: Deployment, *run_ids: str) -> list[tuple[float, float, str]]:
    return [span for span in lake.spans(*run_ids) if span[2] in CHAIN]


def test_runs_of_every_origin_take_turns_out_of_the_box(lake):
    with Held(lake, "T00:00") as first:
        runs = [lake.launch_run(key) for key in KEYS[:2]]
        backfill = lake.backfill(*KEYS[2:])
        first.wait()
        wait_for(lambda: lake.runs_of(backfill), "the backfill's run")
        assert len(slots(lake).claimed_slots) == 1
    assert lake.finish(*runs) == ["SUCCESS"] * 2
    assert lake.finish_backfill(backfill) == "COMPLETED_SUCCESS"
    spans = writes(lake, *runs, *(run.run_id for run in lake.runs_of(backfill)))
    assert len(spans) == 3 * len(CHAIN)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    lake.check_law()


def test_with_a_higher_limit_runs_overlap_and_the_tables_are_the_same(lake):
    storage = lake.instance.event_log_storage
    storage.set_concurrency_slots(POOL, 4)
    try:
        arrived, together = set(), threading.Barrier(3)

        def answer(request: Request) -> None:
            hour = (request.query_params.get("startTime") or "")[11:13]
            if hour in {"00", "02", "04"} and hour not in arrived:
                arrived.add(hour)
                together.wait(PATIENCE_SECONDS)

        lake.answer = answer
        runs = [lake.launch_run(KEYS[hour], KEYS[hour + 1 if hour < 4 else 7]) for hour in (0, 2, 4)]
        assert lake.finish(*runs) == ["SUCCESS"] * 3
    finally:
        storage.delete_concurrency_limit(POOL)
    spans = writes(lake, *runs)
    assert any(before[1] > after[0] for before, after in pairwise(spans))
    lake.check_law()


def test_a_run_terminated_in_a_step_gives_its_place_to_the_next_and_can_be_run_again(lake):
    with Held(lake, "T01:00") as held:
        stopped = lake.launch_run(KEYS[1])
        held.wait()
        queued, withdrawn = lake.launch_run(KEYS[2]), lake.launch_run(KEYS[3])
        lake.terminate(withdrawn)
        lake.terminate(stopped)
        assert lake.finish(stopped, queued, withdrawn) == ["CANCELED", "SUCCESS", "CANCELED"]
    assert lake.materialised("change_feed") == [KEYS[2]]
    assert not slots(lake).claimed_slots
    again = lake.reexecute(stopped)
    assert lake.finish(again, lake.launch_run(KEYS[0], KEYS[-1])) == ["SUCCESS"] * 2
    lake.check_law()
    assert lake.alerts == [], "nobody is woken by a run that someone cancelled"


def test_a_killed_run_fails_gives_its_place_back_and_is_told(lake):
    with Held(lake, "T05:00") as held:
        killed = lake.launch_run(KEYS[5])
        held.wait()
        queued = lake.launch_run(KEYS[6])
        lake.kill(killed)
        assert lake.finish(killed, queued) == ["FAILURE", "SUCCESS"]
    assert "it was killed, ran out of memory" in lake.alert_of(killed)["text"]
    assert lake.finish(lake.launch_run(KEYS[0], KEYS[-1])) == ["SUCCESS"]
    lake.check_law()
    assert not slots(lake).claimed_slots


def test_a_run_that_is_killed_with_its_code_server_fails_and_gives_its_place_back(lake):
    with Held(lake, "T05:00") as held:
        killed = lake.launch_run(KEYS[5])
        held.wait()
        lake.restart_code_server()
    waiting = lake.launch_run(KEYS[0], KEYS[-1])
    assert lake.finish(killed, waiting) == ["FAILURE", "SUCCESS"]
    lake.check_law()


@pytest.mark.deep
def test_upkeep_takes_its_turn_among_the_writers(lake):
    assert lake.finish(lake.launch_run(KEYS[0])) == ["SUCCESS"]
    with Held(lake, "T01:00") as held:
        writer = lake.launch_run(KEYS[1])
        held.wait()
        upkeep = lake.launch_job("maintain_lake", {"dry_run": False})
        lake.finish(lake.launch_job("check_freshness", {}))  # which writes nothing, and came after it
        assert lake.spans(upkeep) == []
    assert lake.finish(writer, upkeep) == ["SUCCESS"] * 2
    spans = [span for span in lake.spans(writer, upkeep) if span[2] in CHAIN or span[2].startswith("maintain_")]
    assert len(spans) == 2 * len(CHAIN)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert lake.finish(lake.launch_run(KEYS[2], KEYS[-1])) == ["SUCCESS"]
    lake.check_law()
