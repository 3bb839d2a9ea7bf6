"""Ranges of hours, by GraphQL as the UI asks for them and by command line: one run, and a way on when it fails."""

import os
import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest
from starlette.requests import Request
from starlette.responses import Response

from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import TABLES
from dicom_assets.core.errors import UnknownHourError
from dicom_assets.definitions import build_definitions
from dicom_assets_tests.defs.deployment import HOURS, KEYS, PATIENCE_SECONDS, Deployment, Held, wait_for
from dicom_assets_tests.law.world import CHAIN, START


@pytest.fixture
def lake(deployed) -> Deployment:
    deployed.wipe()
    return deployed


def refusing(hour: str):
    """Answers that refuse an hour, and say nothing to others."""

    def answer(request: Request) -> Response | None:
        return Response(status_code=403) if hour in (request.query_params.get("startTime") or "") else None

    return answer


def test_the_chain_is_one_run_and_an_asset_alone_is_another(lake):
    whole = lake.backfill(*KEYS)
    assert lake.finish_backfill(whole) == "COMPLETED_SUCCESS"
    (run,) = lake.runs_of(whole)
    assert run.asset_selection == {dg.AssetKey(name) for name in CHAIN}
    lake.check_law()
    versions = [lake.lake.version(table) for table in TABLES]
    alone = lake.backfill(*KEYS, assets=["instance"])
    assert lake.finish_backfill(alone) == "COMPLETED_SUCCESS"
    (run,) = lake.runs_of(alone)
    assert run.asset_selection == {dg.AssetKey("instance")}
    assert [lake.lake.version(table) for table in TABLES] == versions


@pytest.mark.deep
def test_a_backfill_that_fails_half_way_goes_on_at_what_is_missing_and_is_told_once(lake):
    lake.answer = refusing("T04:00")
    failed = lake.backfill(*KEYS)
    assert lake.finish_backfill(failed) == "COMPLETED_FAILED"
    assert lake.asked == [key[-5:] for key in KEYS[:5]]
    assert lake.materialised("change_feed") == KEYS[:4]
    assert lake.materialised("instance") == []
    assert lake.lake.open(TABLES[0]).row_count > 0
    assert lake.lake.version(TABLES[1]) is None, "nothing half-written"
    (run,) = lake.runs_of(failed)
    wait_for(lambda: lake.alerts, "the alert")
    lake.answer = lambda request: None
    lake.asked.clear()
    assert lake.finish_backfill(lake.retry_backfill(failed)) == "COMPLETED_SUCCESS"
    assert lake.asked == [key[-5:] for key in KEYS[4:]]
    assert all(lake.materialised(name) == KEYS for name in CHAIN)
    lake.check_law()
    (alert,) = lake.alerts
    assert alert["run_url"] == f"{lake.ui}/runs/{run.run_id}"
    assert (alert["steps"], alert["error"]) == (["change_feed"], "ServiceRefusedError")
    assert f"change_feed failed for the hours {KEYS[0]} to {KEYS[-1]} UTC." in alert["text"]
    assert "403" in alert["text"]


def test_a_cancelled_backfill_stops_and_goes_on_at_what_is_missing(lake):
    with Held(lake, "T03:00") as held:
        backfill = lake.backfill(*KEYS)
        held.wait()
        lake.cancel_backfill(backfill)
        assert lake.finish_backfill(backfill) == "CANCELED"
    assert [run.status.value for run in lake.runs_of(backfill)] == ["CANCELED"]
    assert lake.materialised("change_feed") == KEYS[:3]
    lake.answer = lambda request: None
    lake.asked.clear()
    assert lake.finish_backfill(lake.retry_backfill(backfill)) == "COMPLETED_SUCCESS"
    assert lake.asked == [key[-5:] for key in KEYS[3:]]
    assert all(lake.materialised(name) == KEYS for name in CHAIN)
    lake.check_law()


def test_a_service_that_goes_down_in_a_backfill_fails_it_with_what_to_do_and_its_run_goes_on_from_there(lake):
    def answer(request: Request) -> Response | None:
        is_down = (request.query_params.get("startTime") or "")[11:13] >= "05"
        return Response(status_code=503, headers={"Retry-After": "0"}) if is_down else None

    lake.answer = answer
    failed = lake.backfill(*KEYS)
    assert lake.finish_backfill(failed) == "COMPLETED_FAILED"
    (run,) = lake.runs_of(failed)
    alert = lake.alert_of(run.run_id)
    assert alert["error"] == "ServiceUnreachableError", alert["text"]
    assert "(after 2 attempts)" in alert["text"]
    assert lake.asked[:5] == [key[-5:] for key in KEYS[:5]]
    assert set(lake.asked[5:]) == {"05:00"}, "the second attempt goes on where the first stopped"
    assert lake.materialised("change_feed") == KEYS[:5]
    lake.answer = lambda request: None
    lake.asked.clear()
    assert lake.finish(lake.reexecute(run.run_id)) == ["SUCCESS"]
    assert lake.asked == [key[-5:] for key in KEYS[5:]]
    lake.check_law()
    for hour, key in enumerate(KEYS):
        wanted = dg.AssetRecordsFilter(dg.AssetKey("change_feed"), asset_partitions=[key])
        latest = lake.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        found = [entry for entry in lake.service.change_feed(limit=10**6) if int(entry["timestamp"][11:13]) == hour]
        assert latest.metadata["dagster/partition_row_count"].value == len(found)


def test_a_run_outside_the_range_says_which_hours_there_are_and_a_backfill_starts_nothing(lake):
    assert lake.launch_backfill("2026-03-05-00:00")["__typename"] == "PythonError"
    run = lake.launch_run("2026-03-05-00:00")
    assert lake.finish(run) == ["FAILURE"]
    assert f"the hours that can be read are {KEYS[0]} to {KEYS[-1]} (UTC)" in lake.alert_of(run)["text"]
    assert lake.asked == []


@pytest.mark.parametrize(
    "span",
    [
        ("2026-02-01-00:00", KEYS[0]),
        (KEYS[0], "2026-03-05-00:00"),
        (KEYS[3], KEYS[1]),
    ],
)
def test_a_range_that_is_none_is_refused_before_anything_is_read(span, tmp_path):
    end = (START + timedelta(hours=HOURS)).isoformat()
    settings = {"DICOM_START_TIME": START.isoformat(), "DICOM_END_TIME": end, "DICOM_STORAGE_URL": str(tmp_path)}
    job = build_definitions(load_settings(settings)).resolve_implicit_global_asset_job_def()
    tags = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), span, strict=True))
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.Failure, match=f"{KEYS[0]} to {KEYS[-1]}") as told,
    ):
        job.execute_in_process(instance=instance, tags=tags)
    assert isinstance(told.value.__cause__, UnknownHourError)


COMMANDS = {
    "dagster": ["dagster", "asset", "materialize", "-m", "dicom_assets.definitions", "--select"],
    "dg": ["dagster_dg_cli.cli", "launch", "--assets"],
}


def command(lake: Deployment, tool: str, selection: str, hours: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *COMMANDS[tool], selection, "--partition-range", hours],
        env={name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")} | lake.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(("tool", "selection"), [("dg", "*"), ("dagster", "instance")])
def test_the_commands_run_a_range_in_one_run(lake, tool, selection):
    before = len(lake.instance.get_runs())
    finished = command(lake, tool, selection, f"{KEYS[0]}...{KEYS[-1]}")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(lake.instance.get_runs()) == before + 1
    assert lake.materialised("instance") == KEYS
    if selection == "*":
        lake.check_law()


def test_a_command_for_hours_outside_the_range_starts_nothing(lake):
    before = len(lake.instance.get_runs())
    finished = command(lake, "dagster", "*", "2026-02-01-00:00...2026-03-01-01:00")
    assert finished.returncode != 0
    assert "containing the passed partition key `2026-02-01-00:00`" in finished.stderr
    assert len(lake.instance.get_runs()) == before
