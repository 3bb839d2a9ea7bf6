"""`dicom-assets demo`: twice, after being killed, and where it must refuse."""

import io
import re
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from pydicom import dcmread
from rich.console import Console
from rich.progress import Progress

from dicom_assets import iter_instances
from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.tables.comparison import Agreement
from dicom_assets.demo.demo import FILES, DemoError, Pace, run_demo
from dicom_assets.demo.embedded import Day, ForeignTablesError, fill, open_service, prepare_home
from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.errors import EmulatorStartError
from dicom_assets.query.sql.engine import ask
from dicom_assets_tests.defs.deployment import prepare
from dicom_assets_tests.defs.ticks import NO_OUTPUT
from dicom_assets_tests.processes import COMMAND, PATIENCE_SECONDS, clean_environment, run_command

ROOT = Path(__file__).parents[2]
DAY = Day(hours=6, instances=200)
DEMO_UID = "2.25.1914988600256288952548836112634616793"
"""UID in the README and docs/files.md, of an instance of the whole demo."""
TABLES = ("change_feed", "instance", "series", "study", "file_index")


def show(folder, width=120, **env):
    """What the demo shows on a screen of some width."""
    screen = io.StringIO()
    if not (folder / "home").exists():
        prepare(folder, compute_logs=NO_OUTPUT)
    run_demo(
        Console(file=screen, width=width),
        folder=folder / "service",
        home=folder / "home",
        day=DAY,
        env={"DICOM_STORAGE_URL": str(folder / "lake"), **env},
    )
    return screen.getvalue()


@pytest.fixture
def demo(tmp_path):
    return partial(show, tmp_path)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Where the demo was run, and what it showed."""
    folder = tmp_path_factory.mktemp("shown")
    return folder, show(folder)


def rows_of(shown, table):
    """The rows and the version that the table of tables shows."""
    found = re.search(rf"│ {table} +│ +([\d,]+) │ +(\d+) │ +[\d,]+ KB │", shown)
    assert found, shown
    return int(found[1].replace(",", "")), int(found[2])


def test_demo_fills_the_tables_and_a_second_run_changes_nothing(shown):
    folder, first = shown
    held = {table: rows_of(first, table) for table in TABLES}
    assert held["change_feed"][0] >= held["instance"][0] == held["file_index"][0] > 0
    assert f"{held['change_feed'][0]:,} changes" in first
    assert re.search(r"Filling the Delta tables .* 6 of 6 hours in 0:0\d:\d\d", first)
    assert "SELECT modality, count(*) AS instances FROM instance" in first
    assert re.search(r"│ CT +│ +[\d,]+ │", first)
    assert FILES in first
    paths = paths_of_query(folder)
    assert 0 < len(paths) <= 5
    assert all(path in first for path in paths)
    assert "Nothing changed" not in first
    assert len(re.findall(r"^Study \S+ was (?:corrected|deleted)", first, re.MULTILINE)) == 2
    assert "make dev" in first

    second = show(folder)
    assert {table: rows_of(second, table) for table in TABLES} == held
    assert "Nothing changed" in second
    assert "0 inserted, 0 updated, 0 deleted" in second
    assert "was corrected" not in second


def lake_of(folder):
    return build_lake(load_settings({"DICOM_STORAGE_URL": str(folder / "lake"), "DICOM_CONTAINER_NAME": "dicom"}))


def test_a_correction_and_a_deletion_reach_the_tables(shown):
    folder, first = shown
    corrected = re.search(
        r"^Study (\S+) was corrected .*\n  before patientName (.*), patientId (\S+), files (\d+), firstFile (\S+)\n"
        r"  after  patientName (.*), patientId (\S+), files (\d+), firstFile (\S+)$",
        first,
        re.MULTILINE,
    ).groups()
    study, *before = corrected[:5]
    after = list(corrected[5:])
    assert before[2] == after[2]
    assert all(old != new for old, new in zip(before[:2] + before[3:], after[:2] + after[3:], strict=True))
    deleted, files, path = re.search(
        r"^Study (\S+) was deleted .*\n  before .*, files (\d+), firstFile (\S+)\n  after  no row", first, re.MULTILINE
    ).groups()
    assert int(files) > 0
    rows = {row["studyInstanceUid"]: row for row in rows_in(folder, "study")}
    assert [rows[study]["patientName"], rows[study]["patientId"]] == after[:2]
    assert deleted not in rows
    held = {row["filePath"] for row in rows_in(folder, "file_index")}
    assert after[3] in held
    assert held.isdisjoint({before[3], path})
    assert (folder / "service" / "files" / after[3]).exists()
    assert not (folder / "service" / "files" / path).exists()


def paths_of_query(folder):
    """What the demo's second query gives."""
    return [row["filePath"] for row in rows_in(folder, f"({FILES})")]


def rows_in(folder, table):
    return [
        row for batch in ask(lake_of(folder), f"SELECT * FROM {table}") for row in pa.record_batch(batch).to_pylist()
    ]


def test_every_row_of_file_index_opens(shown):
    folder, _ = shown
    settings = load_settings({"DICOM_STORAGE_URL": str(folder / "lake")})
    names = {row["sopInstanceUid"]: row["patientName"] for row in rows_in(folder, "instance")}
    rows = rows_in(folder, "file_index")
    assert len(rows) == len(names) > 0
    received = {file.sop_instance for file in bundled_files()}
    assert 0 < len(names.keys() - received) < len(names)
    for file in iter_instances("SELECT * FROM file_index", settings=settings):
        with file, warnings.catch_warnings():
            made_up = file.sop_instance_uid not in received
            warnings.simplefilter("error" if made_up else "ignore")
            dataset = dcmread(file)
            assert dataset.SOPInstanceUID == file.sop_instance_uid
            assert str(dataset.get("PatientName", "")) == (names.pop(file.sop_instance_uid) or "")
            if made_up and dataset.Modality != "SR":
                assert dataset.pixel_array.any()
    assert not names


def test_query_of_the_readme_leads_to_a_picture(shown, tmp_path):
    folder, _ = shown
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'"{FILES}"' in readme
    env = clean_environment(DICOM_STORAGE_URL=str(folder / "lake"))
    for page in (readme, (ROOT / "docs" / "files.md").read_text(encoding="utf-8")):
        snippet = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "imsave" in code)
        uid = next(row["sopInstanceUid"] for row in rows_in(folder, f"({FILES})"))
        assert DEMO_UID in snippet
        subprocess.run([sys.executable, "-c", snippet.replace(DEMO_UID, uid)], check=True, cwd=tmp_path, env=env)
        assert (tmp_path / "instance.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "instance.png").unlink()


def test_instance_of_the_readme_is_in_the_demo(tmp_path):
    with open_service(tmp_path) as service:
        fill(service, Day())
        (entry,) = [
            entry
            for entry in service.change_feed(limit=10**6, include_metadata=False)
            if entry["sopInstanceUid"] == DEMO_UID
        ]
    dataset = dcmread(tmp_path / "files" / entry["filePath"])
    assert (dataset.SOPInstanceUID, dataset.Modality, dataset.Rows) == (DEMO_UID, "CT", 512)


def test_service_of_an_earlier_version_gets_its_missing_files(tmp_path):
    for _ in range(2):
        with open_service(tmp_path) as service:
            fill(service, Day(hours=1, instances=3))
            paths = [entry["filePath"] for entry in service.change_feed(limit=10**6) if "filePath" in entry]
        for path in paths:
            (tmp_path / "files" / path).unlink()  # raises an error where there is none


def test_demo_leaves_its_runs_where_the_ui_finds_them(shown):
    folder, _ = shown
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        for table in TABLES:
            assert len(instance.get_materialized_partitions(dg.AssetKey(table))) == DAY.hours


def test_answers_too_wide_for_the_screen_are_shown_line_by_line(shown):
    folder, _ = shown
    lines = re.findall(r"^  (AHDS/\S+\.dcm)$", show(folder, width=80), re.MULTILINE)
    assert sorted(lines) == sorted(paths_of_query(folder))


@pytest.mark.deep
def test_demo_goes_on_after_it_was_killed(demo, tmp_path):
    with dg.DagsterInstance.from_config(str(prepare_home(tmp_path / "home"))) as instance:
        left = instance.create_run_for_job(_job, status=dg.DagsterRunStatus.STARTED)
        instance.event_log_storage.initialize_concurrency_limit_to_default("dicom_lake")
        instance.event_log_storage.claim_concurrency_slot("dicom_lake", left.run_id, "change_feed")
    demo()
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert instance.get_run_by_id(left.run_id).status is dg.DagsterRunStatus.CANCELED


@dg.job
def _job():
    pass


def test_demo_refuses_tables_that_another_service_filled(demo, shown, tmp_path):
    folder, _ = shown
    with pytest.raises(ForeignTablesError, match="did not fill"):
        demo(DICOM_STORAGE_URL=str(folder / "lake"))


def test_demo_says_when_tables_disagree(demo, monkeypatch):
    wrong = Agreement(expected=2, missing=1)
    monkeypatch.setattr("dicom_assets.defs.checks.checks.compare_touched", lambda lake, keys, table: (wrong, wrong))
    with pytest.raises(DemoError, match=r"series\.agrees_with_instance.* failed"):
        demo()


def test_demo_reports_a_setting_that_cannot_be_used(demo):
    with pytest.raises(Exception, match="DICOM_BATCH_SIZE"):
        demo(DICOM_BATCH_SIZE="many")


def test_service_in_use_is_said_to_be(tmp_path):
    with open_service(tmp_path), pytest.raises(EmulatorStartError, match="one at a time"), open_service(tmp_path):
        pass


def test_home_follows_the_project_when_it_moves(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(name)
        home = prepare_home(tmp_path / "home", tmp_path / name / "dagster.yaml")
        assert (home / "dagster.yaml").read_text() == name
    (home / "dagster.yaml").unlink()
    (home / "dagster.yaml").write_text("mine")
    prepare_home(home, tmp_path / "before" / "dagster.yaml")
    assert (home / "dagster.yaml").read_text() == "mine"


STOPPED = """
import signal, sys
from dicom_assets.cli import app as cli
from dicom_assets.demo import demo
stop = int(sys.argv.pop())
signal.signal(signal.SIGINT, signal.SIG_IGN)
demo.run_demo = lambda *_, **__: signal.raise_signal(stop)
cli.main()
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_a_shell_began_in_the_background_can_be_stopped(stop):
    ran = subprocess.run(
        [sys.executable, "-c", STOPPED, "demo", str(int(stop))], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "run the command again" in ran.stderr) == (130, True)


def test_interrupted_demo_says_that_it_can_go_on(tmp_path):
    command = ["demo", "--hours", "5", "--instances", "300"]
    env, pipe = clean_environment(), subprocess.PIPE
    demo = subprocess.Popen([*COMMAND, *command], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "data" / "dicom").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    output, errors = demo.communicate(timeout=PATIENCE_SECONDS)
    assert demo.returncode == 130, output + errors
    assert "run the command again" in errors
    assert "Traceback" not in errors
    again = run_command(*command, env=env, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Delta tables" in again.stdout
    assert again.stderr == ""


@pytest.mark.parametrize(("steps", "shown"), [(300, "150/s, 0:00:09 left"), (10, "5.0/s, 0:05:18 left")])
def test_bar_shows_rate_and_time_left_and_in_the_end_how_long_it_took(steps, shown):
    now = 0.0
    progress = Progress(get_time=lambda: now)
    progress.add_task("", total=1600)
    (task,) = progress.tasks
    assert Pace().render(task).plain == ""
    for now in (0.0, 2.0):
        progress.advance(task.id, steps if now else 1)
    assert Pace().render(task).plain == shown
    now = 63.0
    progress.update(task.id, completed=1600)
    assert Pace().render(task).plain == "in 0:01:03"
