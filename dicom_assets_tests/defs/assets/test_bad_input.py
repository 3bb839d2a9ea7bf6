"""What a user sees when the service, its answers or the lake are not as they should be; and what nobody ever sees."""

import json
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pyarrow as pa
import pytest
from azure.core.credentials import AccessToken
from deltalake import DeltaTable, write_deltalake
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dicom_assets.config import connections
from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, STUDY, TABLES
from dicom_assets.core.errors import (
    DicomAssetsError,
    FeedEntryError,
    ForeignTableError,
    LakeUnavailableError,
    ServiceRefusedError,
    ServiceUnreachableError,
    UnreadablePageError,
)
from dicom_assets.definitions import build_definitions
from dicom_assets.emulator.http.parameters import parse_page_request
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake
from dicom_assets.network.retries import RetryPolicy
from dicom_assets.service import client as dicom_service
from dicom_assets_tests.lakes.building import read
from dicom_assets_tests.law.world import environment_of

START = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = [f"2026-03-01-{hour:02}:00" for hour in range(3)]
MARKER = "ZZPATIENTZZ"


class Outcome(NamedTuple):
    success: bool
    error: DicomAssetsError | None
    """The project's own error, in the chain of causes of what Dagster raised."""
    metadata: dict[str, dict]
    """Of the materialisations, by asset."""


class World:
    """A service behind a socket, a lake in a folder, and runs of the assets."""

    url: str

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder, self.service = folder, service
        self.answer: Callable[[Request], Response | None] = lambda request: None
        self.settings: dict[str, str] = {}
        self.seen: list[str] = []
        """Everything that Dagster kept of the runs, and every error's text with all its causes."""

    def intercept(self, request: Request) -> Response | None:
        return self.answer(request)

    @property
    def lake(self) -> Lake:
        return build_lake(self._load_settings())

    def edit(self, change: Callable[[list[dict]], object]) -> None:
        """Has every page of the feed changed before it goes out."""

        def answer(request: Request) -> Response:
            page = parse_page_request(request.query_params)
            entries = self.service.change_feed(
                start=page.start, end=page.end, offset=page.offset, limit=page.limit,
                include_metadata=page.include_metadata,
            )  # fmt: skip
            change(entries)
            return Response(json.dumps(entries), media_type="application/json")

        self.answer = answer

    def run(self, hour: int = 0, **how) -> Outcome:
        """Materialises all assets for an hour, as Dagster does."""
        job = build_definitions(self._load_settings()).resolve_implicit_global_asset_job_def()
        error = None
        (self.folder / "dagster").mkdir(exist_ok=True)
        with dg.DagsterInstance.ephemeral(tempdir=str(self.folder / "dagster")) as instance:
            try:
                job.execute_in_process(instance=instance, **({"partition_key": KEYS[hour]} | how))
            except Exception as raised:  # whatever it is, it must hold no patient
                self.seen.append("".join(traceback.format_exception(raised)))
                error = next((cause for cause in _chain(raised) if isinstance(cause, DicomAssetsError)), None)
                assert error is not None, self.seen[-1]
                self.seen += [str(cause) for cause in _chain(raised)]
            (run,) = instance.get_runs()
            events = instance.all_logs(run.run_id)
            self.seen += [str(event) for event in events]
            if error is not None:
                assert any(str(error) in str(event.dagster_event) for event in events if event.is_dagster_event)
            success = run.status is dg.DagsterRunStatus.SUCCESS
        materialised = [event.asset_materialization for event in events if event.asset_materialization]
        metadata = {
            event.asset_key.path[-1]: {key: value.value for key, value in event.metadata.items()}
            for event in materialised
        }
        return Outcome(success, error, metadata)

    def fail(self, kind: type[DicomAssetsError], hour: int = 0) -> str:
        """The message of a run that fails."""
        outcome = self.run(hour)
        assert not outcome.success
        assert type(outcome.error) is kind, outcome.error
        return str(outcome.error)

    def versions(self) -> list[int | None]:
        return [self.lake.version(table) for table in TABLES]

    def _load_settings(self):
        return load_settings(
            {
                **environment_of(self.url, len(KEYS)),
                "DICOM_STORAGE_URL": str(self.folder / "lake"),
                "DICOM_BATCH_SIZE": "3",
            }
            | self.settings
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all its causes, each once: contexts may go in circles."""
    told: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is not None and id(cause) not in told:
            told.add(id(cause))
            yield cause
            waiting += [cause.__context__, cause.__cause__]


def metadata_of(number: int) -> dict:
    """Attributes of the instance of this number, the marker in every one that may tell of a patient."""
    texts = ("00081030", "00080050", "00100020", "00100021", "0008103E", "00420010", "00204000")
    return {
        "0020000D": {"vr": "UI", "Value": [f"1.{number % 2}"]},
        "0020000E": {"vr": "UI", "Value": [f"1.{number % 2}.1"]},
        "00080018": {"vr": "UI", "Value": [f"1.{number % 2}.1.{number}"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00080020": {"vr": "DA", "Value": [MARKER]},
        "00200013": {"vr": "IS", "Value": [MARKER]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": MARKER}]},
        **{tag: {"vr": "LO", "Value": [MARKER]} for tag in texts},
    }


def fill(service: Service, hour: int, count: int, first: int = 0) -> None:
    with service.transaction():
        for number in range(first, first + count):
            at = START + timedelta(hours=hour, milliseconds=number - first)
            service.store_metadata(metadata_of(number), at=at, file_path=f"AHDS/{number}.dcm")


@pytest.fixture
def world(tmp_path, monkeypatch, caplog, capfd) -> Iterator[World]:
    """Seven instances in hour 0, seven in hour 1, none in hour 2; in the end, no patient where none belongs."""
    quick = RetryPolicy(tries=2, first_wait_seconds=0.001, longest_wait_seconds=0.002)
    monkeypatch.setattr(dicom_service, "RetryPolicy", lambda: quick)
    caplog.set_level("DEBUG")
    with Service(seed=1) as service:
        fill(service, 0, 7)
        fill(service, 1, 7, first=7)
        world = World(tmp_path, service)
        with serve(service, intercept=world.intercept) as world.url:
            yield world
    output = capfd.readouterr()
    assert world.seen
    for text in (*world.seen, caplog.text, output.out, output.err):
        assert MARKER not in text
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.is_relative_to(tmp_path / "lake"):
            assert MARKER.encode() not in file.read_bytes()
    for file in (tmp_path / "lake").rglob("_delta_log/*.json"):
        assert MARKER not in file.read_text()


# The service


def test_service_that_is_not_there(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        world.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        message = world.fail(ServiceUnreachableError)
    assert message.startswith(f"Change feed request failed: no answer (ConnectError) for {world.url}/v2/changefeed")
    assert "(window 2026-03-01 00:00–01:00Z, offset 0)" in message
    assert "check DICOM_SERVICE_URL and the network" in message


def test_wrong_url_that_answers_with_a_web_page(world):
    world.answer = lambda request: HTMLResponse(f"<html>{MARKER}</html>")
    message = world.fail(UnreadablePageError)
    assert "an HTML page instead of JSON" in message
    assert "check DICOM_SERVICE_URL" in message


def test_wrong_url_that_answers_with_other_json(world):
    world.answer = lambda request: Response(json.dumps({"error": MARKER}), media_type="application/json")
    message = world.fail(UnreadablePageError)
    assert "Expected `array`, got `object`" in message
    assert "DICOM_SERVICE_URL names no DICOM service" in message


def test_wrong_token(world, monkeypatch):
    class Credential:
        def get_token(self, *scopes, **options) -> AccessToken:
            return AccessToken("HIDDENTOKEN", 2**40)

    monkeypatch.setattr(connections, "build_credential", lambda *given, **named: Credential())
    with serve(world.service, token="right") as world.url:
        message = world.fail(ServiceRefusedError)
    assert message.startswith("Change feed request failed: 401 for ")
    assert "check DICOM_AUTHENTICATION, DICOM_TOKEN_SCOPE" in message
    assert not any("HIDDENTOKEN" in text for text in world.seen)


# The lake


def test_lake_that_cannot_be_written(world):
    (world.folder / "lake").write_text("a file in place of the folder")
    message = world.fail(LakeUnavailableError)
    assert message.startswith(f"Could not create {world.folder}/lake/dicom/change_feed: ")
    assert "Check that DICOM_STORAGE_URL names a folder this user may write to, with space left." in message
    (world.folder / "lake").unlink()


def test_lake_with_a_table_of_somebody_else(world):
    path = world.folder / "lake/dicom/instance"
    write_deltalake(path, pa.table({"patient": [1, 2]}))
    message = world.fail(ForeignTableError)
    assert message.startswith(f"The table at {path} is not the instance table of this project: it has no column ")
    assert message.endswith("Move it away, or choose another place with DICOM_INSTANCE_TABLE_PATH.")
    assert DeltaTable(path).version() == 0
    assert len(read(world.lake, CHANGE_FEED)) == 7
    world.settings["DICOM_INSTANCE_TABLE_PATH"] = "silver/instance"
    assert world.run().success
    assert len(read(world.lake, INSTANCE)) == 7


def test_table_of_an_older_schema_is_brought_up_to_date(world):
    names = [name for name in INSTANCE.schema.names if name not in ("manufacturer", "filePath")]
    path = world.folder / "lake/dicom/instance"
    DeltaTable.create(path, pa.schema([INSTANCE.schema.field(name) for name in names]))
    assert world.run().success
    assert {row["filePath"] for row in read(world.lake, INSTANCE)} == {f"AHDS/{number}.dcm" for number in range(7)}
    assert set(DeltaTable(path).schema().to_arrow().names) == set(INSTANCE.schema.names)


# Entries


@pytest.mark.parametrize(
    ("name", "value"), [("studyInstanceUid", None), ("seriesInstanceUid", ""), ("sopInstanceUid", "")]
)
def test_entry_without_a_uid_stops_its_window_and_is_named(world, name, value):
    assert world.run(hour=0).success
    before, versions = read(world.lake, INSTANCE), world.versions()
    bad = []

    def drop(entries: list[dict]) -> None:
        for entry in entries:
            if entry["filePath"] == "AHDS/12.dcm":
                bad[:] = [entry["sequence"]]
                entry[name] = value

    world.edit(drop)
    message = world.fail(FeedEntryError, hour=1)
    assert message.startswith(f"Entry {bad[0]} of the change feed has no {name}")
    assert "materialise the window again" in message
    assert (read(world.lake, INSTANCE), world.versions()) == (before, versions)
    world.answer = lambda request: None
    assert world.run(hour=1).success
    assert len(read(world.lake, INSTANCE)) == 14


@pytest.mark.parametrize("metadata", [[MARKER], MARKER, 7])
def test_metadata_that_is_no_object_is_kept_and_counted(world, metadata):
    def spoil(entries: list[dict]) -> None:
        for entry in entries:
            if entry["filePath"] == "AHDS/5.dcm":
                entry["metadata"] = metadata

    world.edit(spoil)
    outcome = world.run()
    assert outcome.success
    assert outcome.metadata["instance"]["conversion_failures/metadata"] == 1
    assert outcome.metadata["instance"]["conversion_failures/instanceNumber"] == 6
    (row,) = [row for row in read(world.lake, INSTANCE) if row["sopInstanceUid"] == "1.1.1.5"]
    assert "modality" not in row
    (kept,) = [row for row in read(world.lake, CHANGE_FEED) if row["sopInstanceUid"] == "1.1.1.5"]
    assert json.loads(kept["metadata"]) == metadata


def test_entry_whose_metadata_the_service_cannot_give_out_is_stored_without_it_and_counted(world):
    def answer(request: Request) -> Response | None:
        page = parse_page_request(request.query_params)
        if not page.include_metadata:
            return None
        entries = world.service.change_feed(start=page.start, end=page.end, offset=page.offset, limit=page.limit)
        return Response(MARKER, 500) if any(each["filePath"] == "AHDS/5.dcm" for each in entries) else None

    world.answer = answer
    outcome = world.run()
    assert outcome.success
    assert outcome.metadata["change_feed"]["unreadable"] == 1
    assert outcome.metadata["change_feed"]["dagster/partition_row_count"] == 7
    rows = {row["filePath"]: row for row in read(world.lake, CHANGE_FEED)}
    assert [path for path, row in rows.items() if "metadata" not in row] == ["AHDS/5.dcm"]
    assert len(read(world.lake, INSTANCE)) == 7


def test_sequences_have_64_bits(world):
    def enlarge(entries: list[dict]) -> None:
        for entry in entries:
            entry["sequence"] += 2**63 - 10_000

    world.edit(enlarge)
    assert world.run().success
    assert min(row["sequence"] for row in read(world.lake, INSTANCE)) > 2**62


def test_sequence_beyond_64_bits_is_no_page(world):
    world.edit(lambda entries: [entry.update(sequence=2**63) for entry in entries])
    message = world.fail(UnreadablePageError)
    assert "`int` <= 9223372036854775807" in message
    assert "window 2026-03-01 00:00–01:00Z, offset 0" in message


# Hours


def test_hour_without_changes_makes_empty_tables(world):
    outcome = world.run(hour=2)
    assert outcome.success
    for table in TABLES:
        assert read(world.lake, table) == []
        assert outcome.metadata[table.name]["dagster/row_count"] == 0
    assert outcome.metadata["change_feed"]["dagster/partition_row_count"] == 0


def test_hour_with_fifty_thousand_changes(world):
    world.settings["DICOM_BATCH_SIZE"] = "200"
    fill(world.service, 2, 50_000, first=100)
    outcome = world.run(hour=2)
    assert outcome.success
    counts = {name: metadata["dagster/row_count"] for name, metadata in outcome.metadata.items()}
    assert counts == {"change_feed": 50_000, "instance": 50_000, "series": 2, "study": 2, "file_index": 50_000}
    assert [row["instanceCount"] for row in read(world.lake, STUDY)] == [25_000, 25_000]


@pytest.mark.parametrize(("cut", "encoding"), [(-20, "utf-8"), (None, "utf-16")])
def test_unreadable_page_fails_with_its_window_and_offset_and_loses_nothing(world, cut, encoding):
    assert world.run(hour=0).success
    before, versions = read(world.lake, CHANGE_FEED), world.versions()

    def answer(request: Request) -> Response | None:
        if request.query_params["offset"] != "3":
            return None
        page = world.service.change_feed(start=START + timedelta(hours=1), offset=3, limit=3)
        return Response(json.dumps(page)[:cut].encode(encoding), media_type="application/json")

    world.answer = answer
    message = world.fail(UnreadablePageError, hour=1)
    assert "(window 2026-03-01 01:00–02:00Z, offset 3), 2 times" in message
    assert (read(world.lake, CHANGE_FEED), world.versions()) == (before, versions)
    world.answer = lambda request: None
    assert world.run(hour=1).success
    assert len(read(world.lake, CHANGE_FEED)) == len(read(world.lake, INSTANCE)) == 14
