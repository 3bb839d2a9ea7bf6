"""What is tried again and what is not, and what the person on call is told."""

import json
import socket
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging.config import dictConfig
from pathlib import Path
from threading import Thread

import dagster as dg
import httpx
import pytest

from dicom_assets.config.settings import load_settings
from dicom_assets.core import errors
from dicom_assets.core.errors import AlertError, DicomAssetsError, ServiceRefusedError, ServiceUnreachableError
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.automation.run_requests import Reason, build_request
from dicom_assets.defs.checks import failure
from dicom_assets.defs.checks.failure import heals, retrying
from dicom_assets.defs.jobs.alerts import build_alert_sensor
from dicom_assets.defs.jobs.check_freshness import build_freshness_job
from dicom_assets.defs.partitions import Hours
from dicom_assets.lake.table.delta import Lake
from dicom_assets.network import retries
from dicom_assets.network.webhook import post_alert
from dicom_assets_tests.law.world import START

PROJECT = Path(__file__).parents[3]
POLICY = failure.RETRIES  # before the fixtures replace it
PATIENT = "ZZPATIENTZZ"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DicomAssetsError)]
HEALING = {
    "CommitConflictError",
    "EngineUnavailableError",
    "FeedMovedError",
    "LakeUnavailableError",
    "ServiceUnreachableError",
    "UnreadablePageError",
}


# Retries


@pytest.fixture
def twice(monkeypatch):
    monkeypatch.setattr(failure, "RETRIES", dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("twice")
def test_what_heals_is_tried_again_a_little_later_each_time_and_the_rest_never(kind):
    assert heals(kind("what to do")) == (kind.__name__ in HEALING)
    for attempts, seconds in ((0, 10), (1, 30), (2, None)):
        with pytest.raises((dg.RetryRequested, dg.Failure)) as raised, retrying(attempts):
            raise kind("what to do")
        if kind.__name__ in HEALING and seconds:
            assert raised.value.seconds_to_wait == seconds
        else:
            assert raised.type is dg.Failure
            assert (raised.value.description, raised.value.allow_retries) == ("what to do", False)
        assert isinstance(raised.value.__cause__, kind)


def test_waits_differ_from_run_to_run():
    assert POLICY.max_retries == 3
    for attempt, about in ((1, 30), (2, 90), (3, 210)):
        waits = {POLICY.calculate_delay(attempt) for _ in range(20)}
        assert len(waits) > 1
        assert all(about - 30 <= wait <= about + 30 for wait in waits)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(ZeroDivisionError), retrying(0):
        1 / 0  # noqa: B018


def test_a_step_that_is_cancelled_is_not_tried_again(instance, monkeypatch, tmp_path):
    def interrupt(*args):
        raise dg.DagsterExecutionInterruptedError

    monkeypatch.setattr(Lake, "write", interrupt)
    monkeypatch.setattr(failure, "RETRIES", dg.RetryPolicy(max_retries=3, delay=0))
    settings = {"DICOM_STORAGE_URL": str(tmp_path), "DICOM_START_TIME": "2026-03-01T00:00Z"}
    job = build_definitions(load_settings(settings)).resolve_implicit_global_asset_job_def()
    instances = [dg.AssetKey("instance")]
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        job.execute_in_process(instance=instance, partition_key="2026-03-01-00:00", asset_selection=instances)
    (run,) = instance.get_runs()
    events = {entry.dagster_event.event_type_value for entry in instance.all_logs(run.run_id) if entry.dagster_event}
    assert "STEP_UP_FOR_RETRY" not in events
    assert run.status is dg.DagsterRunStatus.FAILURE


# The alert


class Failing(dg.IOManager):
    """Stores nothing: raises what it is given."""

    def handle_output(self, context, obj):
        with retrying(context.step_context.previous_attempt_count):
            raise obj

    def load_input(self, context):
        raise NotImplementedError


class Told:
    """An instance with a job that fails, and the sensor that watches it."""

    def __init__(self, instance: dg.DagsterInstance, send=None) -> None:
        self.instance, self.alerts = instance, []
        self.sensor = build_alert_sensor(send or self.alerts.append, "https://dagster.example.org")
        self.cursor = None
        self.tick()

    def tick(self):
        """What the daemon does with every tick: evaluates, and keeps the cursor."""
        repository = dg.Definitions(sensors=[self.sensor]).get_repository_def()
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, repository_def=repository)
        result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def fail(self, error: BaseException, **how) -> dg.DagsterRun:
        @dg.asset(partitions_def=dg.HourlyPartitionsDefinition("2026-03-01-00:00"), io_manager_key="failing")
        def study():
            return dg.MaterializeResult(value=error)

        result = dg.materialize(
            [study], resources={"failing": Failing()}, instance=self.instance, raise_on_error=False, **how
        )
        assert not result.success
        return result.dagster_run


def test_the_message_says_what_which_hour_why_what_to_do_and_where(instance):
    told = Told(instance)
    run = told.fail(ServiceRefusedError("403 for https://…. Grant the role."), partition_key="2026-03-01-05:00")
    told.tick()
    (alert,) = told.alerts
    what, why, _, remedy, link = alert["text"].splitlines()
    assert what == "DICOM lake: study failed for the hour 2026-03-01-05:00 UTC."
    assert why == "Why: 403 for https://…. Grant the role."
    assert "Re-execute, From failure" in remedy
    assert link == f"Run: https://dagster.example.org/runs/{run.run_id}"
    assert alert["title"] in alert["text"]
    assert (alert["error"], alert["steps"]) == ("ServiceRefusedError", ["study"])
    json.dumps(alert)


def test_of_a_run_that_the_sensors_ask_for_again_the_message_says_so(instance):
    told = Told(instance)
    request = build_request(Window.of_hours(START), Reason.DUE)
    told.fail(ServiceUnreachableError("no answer"), partition_key=request.partition_key, tags=request.tags)
    told.tick()
    assert "requested again automatically, after 5 minutes" in told.alerts[0]["text"]


def test_an_hour_that_is_late_is_told_in_words_that_help(instance):
    told = Told(instance)
    hours = Hours(START, None, timedelta(minutes=10))
    job = build_freshness_job([dg.AssetKey("study")], hours, lambda: START + 3 * HOUR)
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    told.tick()
    (alert,) = told.alerts
    assert "Why: The hour 2026-03-01-01:00 is not in study 30 minutes after its end. " in alert["text"]
    assert "the sensor catch_up" in alert["text"]
    assert alert["error"] == "LateHourError"


def test_a_failed_run_is_told_once(instance):
    told = Told(instance)
    for _ in range(2):
        told.fail(ServiceUnreachableError("no answer"), partition_key="2026-03-01-05:00")
    for _ in range(4):
        told.tick()
    assert len({alert["run_id"] for alert in told.alerts}) == len(told.alerts) == 2


@pytest.mark.parametrize("cause", [None, KeyError(PATIENT), ServiceRefusedError])
def test_text_of_errors_that_are_not_ours_is_never_sent(instance, cause):
    told = Told(instance)
    error = ValueError(f"dicom_assets.core.errors.LakeError: {PATIENT}")
    if isinstance(cause, KeyError):
        error.__cause__ = cause
    elif cause:
        error.__cause__ = cause("our own words")
    told.fail(error, partition_key="2026-03-01-05:00")
    told.tick()
    sent = json.dumps(told.alerts)
    assert PATIENT not in sent
    assert ("our own words" in sent) == (cause is ServiceRefusedError)
    if cause is None:
        assert told.alerts[0]["error"] == "ValueError"


def test_a_blocking_check_that_fails_is_named(instance):
    @dg.asset
    def series(): ...

    @dg.asset_check(asset=series, blocking=True)
    def keys_are_unique():
        return dg.AssetCheckResult(passed=False, description=PATIENT)

    @dg.asset_check(asset=series)
    def other():
        return dg.AssetCheckResult(passed=True)

    @dg.asset(deps=[series])
    def study(): ...

    told = Told(instance)
    assets = [series, study, keys_are_unique, other]
    assert not dg.materialize(assets, instance=instance, raise_on_error=False).success
    told.tick()
    (alert,) = told.alerts
    assert alert["failed_checks"] == ["keys_are_unique of series"]
    assert "keys_are_unique of series." in alert["text"]
    assert PATIENT not in json.dumps(alert)


def test_a_receiver_that_is_down_neither_stops_the_sensor_nor_is_asked_for_ever(instance):
    def send(alert):
        attempts.append(alert)
        raise AlertError("The alert was not delivered")

    attempts = []
    told = Told(instance, send)
    told.fail(ServiceUnreachableError("no answer"), partition_key="2026-03-01-05:00")
    reaction = told.tick().dagster_run_reactions[0]
    assert "The alert was not delivered" in reaction.error.message
    told.tick()
    assert len(attempts) == 1


# The webhook


@contextmanager
def receiver(*statuses: int):
    bodies, answers = [], iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(next(answers))
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(retries, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("quickly")
def test_alert_is_posted_as_json_and_again_when_the_receiver_stumbles():
    with receiver(503, 429, 204) as (url, bodies):
        post_alert(f"{url}/hook?sig=secret", {"text": "…"})
    assert bodies == [("/hook?sig=secret", {"text": "…"})] * 3


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("statuses", [(410,), (302,), (500, 500, 500)])
def test_refused_alert_is_an_error_without_the_secret_url(statuses):
    with receiver(*statuses) as (url, bodies), pytest.raises(AlertError) as raised:
        post_alert(f"{url}/hook?sig=secret", {"text": "…"})
    assert len(bodies) == len(statuses)
    assert "127.0.0.1" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_url_of_the_webhook_is_not_logged_whatever_the_level(caplog):
    caplog.set_level(1)
    dictConfig({"version": 1, "disable_existing_loggers": False})
    with receiver(204, 204) as (url, _):
        post_alert(f"{url}/hook?sig=secret", {"text": "…"})
        assert "secret" not in caplog.text
        httpx.post(f"{url}/others", json={})
    assert "/others" in caplog.text


@pytest.mark.usefixtures("quickly")
def test_nobody_there_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(AlertError, match=r"no answer \(ConnectError\).*3 times"):
            post_alert(f"http://127.0.0.1:{taken.getsockname()[1]}/secret", {})


def test_without_a_webhook_there_is_no_sensor_and_with_one_it_is_on():
    assert "alert_on_failure" not in {sensor.name for sensor in build_definitions(load_settings({})).sensors or []}
    settings = load_settings({"DICOM_ALERT_WEBHOOK_URL": "https://hooks.example.org/secret"})
    assert "hooks" not in repr(settings)
    (sensor,) = (s for s in build_definitions(settings).sensors if s.name == "alert_on_failure")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_the_documented_e_mail_example_sends_an_alert(monkeypatch):
    text = (PROJECT / "docs" / "operations.md").read_text()
    code = text.split("<!-- example: e-mail -->\n```python\n")[1].split("```")[0]
    sent: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.getsockname()[1]))
        thread = Thread(target=speak_smtp, args=(server, sent))
        thread.start()
        example: dict = {}
        exec(compile(code, "example", "exec"), example)
        example["send"]({"title": "DICOM lake: study failed", "text": "Why: the reason"})
        thread.join(10)
    assert example["defs"].get_repository_def().has_sensor_def("alert_on_failure")
    assert "Subject: DICOM lake: study failed" in sent[0]
    assert "Why: the reason" in sent[0]


def speak_smtp(server: socket.socket, sent: list[str]) -> None:
    """As much of a mail server as one message needs."""
    connection, _ = server.accept()
    with connection, connection.makefile("rw", newline="\r\n") as stream:

        def say(text: str) -> None:
            stream.write(text + "\r\n")
            stream.flush()

        say("220 ready")
        for line in stream:
            if line.upper().startswith("DATA"):
                say("354 go on")
                body = []
                for part in stream:
                    if part.strip() == ".":
                        break
                    body.append(part)
                sent.append("".join(body))
            say("221 bye" if line.upper().startswith("QUIT") else "250 fine")
            if line.upper().startswith("QUIT"):
                return
