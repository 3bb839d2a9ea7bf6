"""Several runs read the service at a time while one merges, with Dagster's history in Postgres."""

import os
import threading
from itertools import pairwise

import pytest
from starlette.requests import Request

from dicom_assets_tests.defs.deployment import KEYS, PATIENCE_SECONDS, deploy
from dicom_assets_tests.deploy import postgres

pytestmark = pytest.mark.deep


@pytest.fixture
def lake(tmp_path):
    if not postgres.PROGRAMS:
        assert not os.environ.get("REQUIRE_POSTGRES"), "Postgres is missing (Debian: apt-get install postgresql)"
        pytest.skip("needs Postgres (Debian: apt-get install postgresql)")
    with (
        postgres.serve() as database,
        deploy(
            tmp_path, {"DICOM_CHANGE_FEED_POOL": "dicom_service"}, storage={"postgres": {"postgres_db": database}}
        ) as deployed,
    ):
        yield deployed


def test_ranges_are_read_together_and_merged_in_turn_and_the_tables_are_the_same(lake):
    lake.instance.event_log_storage.set_concurrency_slots("dicom_service", 3)
    arrived, together = set(), threading.Barrier(3)

    def answer(request: Request) -> None:
        hour = (request.query_params.get("startTime") or "")[11:13]
        if hour in {"00", "02", "04"} and hour not in arrived:
            arrived.add(hour)
            together.wait(PATIENCE_SECONDS)

    lake.answer = answer
    runs = [lake.launch_run(KEYS[hour], KEYS[hour + 1 if hour < 4 else 7]) for hour in (0, 2, 4)]
    assert lake.finish(*runs) == ["SUCCESS"] * 3
    assert type(lake.instance.run_storage).__name__ == "PostgresRunStorage"
    merges = [span for span in lake.spans(*runs) if span[2] in {"instance", "series", "study", "file_index"}]
    assert len(merges) == 4 * 3
    assert all(before[1] <= after[0] for before, after in pairwise(merges))
    lake.check_law()
