import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import httpx
import pytest

from dicom_assets.emulator.metadata.data_set import build_dataset, encode
from dicom_assets_tests.emulator.conftest import metadata_of
from dicom_assets_tests.emulator.metadata.test_broken_files import BROKEN
from dicom_assets_tests.processes import COMMAND, PATIENCE_SECONDS, clean_environment, run_command

get = partial(httpx.get, timeout=PATIENCE_SECONDS)


def run(*arguments):
    return run_command(*arguments, env=clean_environment(COLUMNS="200"))


@contextmanager
def running(*arguments, env=None, stop=signal.SIGINT):
    """The emulator's URL and what it said; it must end with exit code 0."""
    arguments = [*COMMAND, "emulator", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(arguments, env=clean_environment(**env or {}), stdout=subprocess.PIPE, text=True)
    with process:
        said = ""
        try:
            for line in process.stdout:
                said += line
                if "DICOM_SERVICE_URL=" in line:
                    break
            yield re.search(r"http://[\d.]+:\d+", said)[0], said
        finally:
            process.send_signal(stop)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert "Stopped." in process.stdout.read()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_emulator_serves_until_it_is_stopped(stop):
    with running("--synthesize", 30, stop=stop) as (url, said):
        assert len(get(f"{url}/v2/changefeed").json()) == 30
        assert "30 instances stored." in said
        assert f"DICOM_SERVICE_URL={url} DICOM_AUTHENTICATION=none DICOM_START_TIME=20" in said


def test_history_starts_where_it_is_told_and_stays_in_the_database(tmp_path):
    arguments = ["--database", tmp_path / "state.db", "--files", tmp_path / "files"]
    spread = ["--bundled", "--hours", 2, "--start", "2026-03-01T01:00+01:00"]
    with running(*arguments, *spread) as (url, said):
        first = get(f"{url}/v2/changefeed").json()
        assert "2026-03-01T00" <= first[0]["timestamp"] <= first[-1]["timestamp"] < "2026-03-01T02"
        assert re.search(r"DICOM_START_TIME=2026-03-01T0[01]:00:00Z", said)
        assert "files skipped: no DICOM file" in said
        assert (tmp_path / "files" / next(entry["filePath"] for entry in first if "filePath" in entry)).exists()
    with running(*arguments, *spread) as (url, said):
        assert get(f"{url}/v2/changefeed").json() == first
        assert "nothing was added" in said


def test_folder_is_loaded_and_token_comes_from_the_environment(tmp_path):
    build_dataset(metadata_of()).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with running("--load", tmp_path, env={"DICOM_EMULATOR_TOKEN": "secret"}) as (url, said):
        assert get(f"{url}/v2/changefeed").status_code == 401
        page = get(f"{url}/v2/changefeed", headers={"Authorization": "Bearer secret"}).json()
        assert [entry["sopInstanceUid"] for entry in page] == ["1.2.3.4"]
        assert "secret" not in said
        assert "Doe" not in said


@pytest.mark.parametrize("spread", [[], ["--hours", 48]])
def test_broken_files_are_skipped_counted_and_named(tmp_path, spread):
    content = encode(build_dataset(metadata_of()))
    (tmp_path / "good.dcm").write_bytes(content)
    for name, bad in BROKEN.items():
        (tmp_path / f"{name}.dcm").write_bytes(bad)
    (tmp_path / "line\nbreak.txt").write_text("no DICOM")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("no DICOM")
    with running("--load", tmp_path, *spread) as (url, said):
        page = get(f"{url}/v2/changefeed?limit=200").json()
        assert "1.2.3.4" in {entry["sopInstanceUid"] for entry in page}
        for name in ("no-dicom.dcm", "empty.dcm", "cut-in-the-deflated-part.dcm", "line?break.txt", "caf?.txt"):
            assert name in said
        assert "files skipped" in said
        assert "Doe" not in said


def test_service_does_to_its_clients_what_is_asked_for():
    options = ["--padding", "--validate", "--faulty-every", 5, "--fault", "missing", "--fault", "malformed"]
    with running("--synthesize", 60, *options, "--max-page-entries", 20) as (url, _):
        feed = f"{url}/v2/changefeed"
        assert get(f"{feed}?limit=30&includeMetadata=false").status_code == 504
        page = get(f"{feed}?limit=20&includeMetadata=false").json()
        assert any(entry["sopInstanceUid"].endswith(" ") for entry in page)
        assert [get(f"{feed}?limit=1&offset={offset}").status_code for offset in (0, 4, 9)] == [200, 500, 400]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "nonsense"], "nonsense"),
        (["--start", "2026-03-01T00:00Z"], "add --hours"),
        (["--hours", "2"], "nothing to spread"),
        (["--hours", "2", "--bundled", "--start", "2026-03-01"], "needs a zone"),
        (["--hours", "2", "--bundled", "--start", "yesterday"], "not an ISO 8601 time"),
    ],
)
def test_unusable_options_are_told(arguments, message):
    result = run("emulator", *arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_error_ends_with_a_message_instead_of_a_traceback():
    result = run("emulator", "--port", "99999")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: The embedded service cannot listen on 127.0.0.1, port 99999")
    assert "Traceback" not in result.stderr


def test_help_needs_nothing_heavy():
    code = "import sys, dicom_assets.cli.app; print(sorted({'pydicom', 'dagster', 'uvicorn'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert "emulator" in run("--help").stdout
