"""Four workers bring hours into the lake at once, with Dagster's history in Postgres and its runs as Celery's tasks."""

import threading
from itertools import pairwise

import pytest
from starlette.requests import Request

from dicom_assets_tests.defs.deployment import KEYS, PATIENCE_SECONDS, deploy
from dicom_assets_tests.deploy import celery, postgres, redis

pytestmark = pytest.mark.deep

WORKERS = 4
RANGES = [(KEYS[hour], KEYS[hour + 1]) for hour in range(0, 2 * WORKERS, 2)]
MERGED = {"instance", "series", "study", "file_index"}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    celery.require_cluster()
    folder = tmp_path_factory.mktemp("deployed")
    with (
        postgres.serve() as database,
        redis.serve() as broker,
        deploy(
            folder,
            {"DICOM_CHANGE_FEED_POOL": "dicom_service", celery.URL: broker},
            storage={"postgres": {"postgres_db": database}},
            run_launcher=celery.run_launcher(),
        ) as deployed,
        celery.work(folder, deployed.surroundings, WORKERS),
    ):
        for pool, places in (("dicom_lake", 1), ("dicom_service", WORKERS)):
            deployed.instance.event_log_storage.set_concurrency_slots(pool, places)
        yield deployed


@pytest.fixture
def lake(deployed):
    deployed.wipe()
    return deployed


class Together:
    """Holds the first request of every range until all workers, and the test, are there."""

    def __init__(self) -> None:
        self.barrier, self.arrived = threading.Barrier(WORKERS + 1), set()

    def answer(self, request: Request) -> None:
        hour = (request.query_params.get("startTime") or "")[11:16]
        if any(first.endswith(f"-{hour}") for first, _ in RANGES) and hour not in self.arrived:
            self.arrived.add(hour)
            self.barrier.wait(PATIENCE_SECONDS)

    def wait(self) -> None:
        self.barrier.wait(PATIENCE_SECONDS)


def test_four_workers_read_at_once_and_merge_in_turn_and_the_tables_are_the_same(lake):
    together = Together()
    lake.answer = together.answer
    runs = [lake.launch_run(*keys) for keys in RANGES]
    together.wait()
    assert lake.finish(*runs) == ["SUCCESS"] * WORKERS
    assert type(lake.instance.run_storage).__name__ == "PostgresRunStorage"
    assert all(lake.instance.get_run_by_id(run).tags["dagster-celery/task_id"] for run in runs)
    merges = [span for span in lake.spans(*runs) if span[2] in MERGED]
    assert len(merges) == len(MERGED) * WORKERS
    assert all(before[1] <= after[0] for before, after in pairwise(merges))
    lake.check_law()


def test_a_worker_killed_at_work_fails_its_run_alone_which_another_one_finishes(lake):
    together, held = Together(), threading.Event()

    def answer(request: Request) -> None:
        together.answer(request)
        if RANGES[1][0][-5:] in (request.query_params.get("startTime") or ""):
            held.wait(PATIENCE_SECONDS)

    lake.answer = answer
    runs = [lake.launch_run(*keys) for keys in RANGES]
    together.wait()
    lake.kill(runs[1])
    held.set()
    assert lake.finish(*runs) == ["SUCCESS", "FAILURE", "SUCCESS", "SUCCESS"]
    assert set(lake.materialised("instance")) == set(KEYS) - set(RANGES[1])
    assert lake.finish(lake.reexecute(runs[1])) == ["SUCCESS"]
    assert lake.materialised("instance") == KEYS
    lake.check_law()
