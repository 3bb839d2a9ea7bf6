"""`dicom-assets sql`, `dicom-assets changes` and `dicom_assets.changes` on a lake in a folder."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dicom_assets
from dicom_assets.cli import app as cli
from dicom_assets.config.connections import build_lake
from dicom_assets.config.settings import load_settings
from dicom_assets.core.columns.schema import STUDY
from dicom_assets.core.errors import SettingsError
from dicom_assets.lake.table.delta import Lake
from dicom_assets_tests.lakes.building import Wanted, store, study


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    bytes: bytes

    @property
    def rows(self) -> list[dict]:
        """Rows of JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def changes(self) -> list[tuple[str, str]]:
        return sorted((row["_change_type"], row["studyInstanceUid"]) for row in self.rows)


@pytest.fixture
def env(tmp_path, monkeypatch) -> dict[str, str]:
    settings = {
        "DICOM_STORAGE_URL": str(tmp_path / "lake"),
        "DICOM_STUDY_TABLE_PATH": "silver/studies",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    for name in [name for name in os.environ if name.startswith(("DICOM_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def lake(env) -> Lake:
    lake = build_lake(load_settings(env))
    store(lake, study("1.1", patientName="Doe^Jo"), study("1.2"))
    return lake


@pytest.fixture
def run(lake, monkeypatch, capsysbinary) -> Callable[..., Ran]:
    """Runs a command in this process, with something on standard input."""

    def run(*arguments: object, given: str = "") -> Ran:
        monkeypatch.setattr(sys, "argv", ["dicom-assets", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsysbinary.readouterr()
        return Ran(ended.value.code, out.decode(errors="replace"), err.decode(), out)

    return run


def test_answer_is_shown_as_a_table(run):
    ran = run("sql", "SELECT studyInstanceUid, patientName FROM study ORDER BY 1")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()[4:6]] == [
        ["│", "1.1", "│", "Doe^Jo", "│"],
        ["│", "1.2", "│", "NULL", "│"],
    ]


def test_plan_is_shown_with_its_lines(run):
    assert "logical_plan\nProjection:" in run("sql", "EXPLAIN SELECT count(*) FROM study").out


def test_tables_are_found_where_the_settings_say(run):
    (row,) = run("sql", "SHOW TABLES", "--format", "jsonl").rows
    assert row["location"].endswith("lake/dicom/silver/studies")


@pytest.mark.parametrize("how", ["-", "--file"])
def test_statement_is_read_from_standard_input_or_a_file(run, tmp_path, how):
    text = "SELECT count(*) AS n\nFROM study -- all\n;\n"
    (tmp_path / "a.sql").write_text(text)
    ran = run("sql", "-", "--format", "jsonl", given=text) if how == "-" else run(
        "sql", "--file", tmp_path / "a.sql", "--format", "jsonl"
    )  # fmt: skip
    assert ran.rows == [{"n": 2}]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_ending_of_the_file_says_the_format(run, tmp_path, ending):
    target = tmp_path / f"out.{ending}"
    ran = run("sql", "SELECT studyInstanceUid FROM study ORDER BY 1", "--output", target)
    assert (ran.code, ran.out, ran.err) == (0, "", f"2 rows in {target}.\n")
    assert target.read_bytes()[:4] == {"csv": b'"stu', "json": b'[\n{"', "jsonl": b'{"st', "parquet": b"PAR1"}[ending]


def test_parquet_goes_to_a_pipe(run):
    ran = run("sql", "SELECT * FROM study", "--format", "parquet")
    assert pq.read_table(io.BytesIO(ran.bytes)).num_rows == 2


def test_older_versions_are_asked(run, lake):
    store(lake, study("1.3"))
    count = ("sql", "SELECT count(*) AS n FROM study", "--format", "jsonl")
    assert run(*count, "--table-version", "study=1").rows == [{"n": 2}]
    assert run(*count, "--as-of", "2099-01-01T00:00Z").rows == [{"n": 3}]
    assert "created later" in run(*count, "--as-of", "2020-01-01T00:00Z").err


def test_failing_query_ends_with_code_1_and_shows_the_place(run):
    ran = run("sql", "SELECT nam FROM study WHERE patientName = 'Doe^Jo'", "--format", "csv")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: There is no column nam in study.")
    assert ran.err.endswith("\n         ^^^\n")
    assert "Doe" not in ran.err


def test_failing_query_leaves_no_file(run, tmp_path):
    ran = run("sql", "SELECT 1 / (seriesCount - 1) FROM study", "--output", tmp_path / "out.csv")
    assert ran.code == 1
    assert not list(tmp_path.glob("*out.csv*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sql"], "give one: a statement"),
        (["sql", "SELECT 1", "--output", "a.txt"], "add --format"),
        (["sql", "SELECT 1", "--output", "a.csv", "--format", "table"], "a table is for the screen"),
        (["sql", "SELECT 1", "--as-of", "yesterday"], "an ISO 8601 time"),
        (["sql", "SELECT 1", "--as-of", "2026-03-01"], "needs a zone"),
        (["sql", "SELECT 1", "--as-of", "yesterday"], "not an ISO 8601 time such as"),
        (["sql", "SELECT 1", "--table-version", "studies=1"], "such as instance=17"),
        (["sql", "SELECT 1", "--table-version", "study=x"], "such as instance=17"),
        (["changes", "study"], "give one of the two"),
        (["changes", "study", "--since", "1", "--state", "a"], "give one of the two"),
        (["changes", "study", "--state", "a"], "the screen keeps no copy"),
        (["changes", "study", "--since", "new"], "not a version, nor an ISO 8601 time such as"),
        (["changes", "study", "--since", "1", "--until", "beginning"], "not a version, nor"),
    ],
)
def test_options_that_do_not_fit_end_with_code_2(run, arguments, told):
    ran = run(*arguments)
    assert ran.code == 2
    assert told in " ".join(ran.err.replace("│", " ").split())


def test_parquet_is_not_written_to_a_screen(run, monkeypatch):
    monkeypatch.setattr("dicom_assets.cli.rows.is_screen", lambda: True)
    assert run("sql", "SELECT 1", "--format", "parquet").code == 2


def test_changes_say_which_version_to_go_on_from(run, lake):
    store(lake, study("1.3"), study("1.1"))
    ran = run("changes", "study", "--since", "1", "--format", "jsonl")
    assert ran.changes == [("insert", "1.3"), ("update_postimage", "1.1")]
    assert ran.err == "study: 1 inserted, 1 updated, 0 deleted.\nReached version 2 of study; next time: --since 2\n"
    assert "next time: --since 2" in run("changes", "study", "--since", "beginning").err


def test_state_file_goes_from_call_to_call(run, lake, tmp_path):
    call = ("changes", "study", "--state", tmp_path / "study.cursor", "--format", "jsonl")
    assert run(*call).changes == [("insert", "1.1"), ("insert", "1.2")]
    lake.write(STUDY, Wanted([study("1.3")], gone=[study("1.2")]))
    assert run(*call).changes == [("delete", "1.2"), ("insert", "1.3")]
    ran = run(*call)
    assert (ran.changes, ran.code) == ([], 0)
    assert "Reached version 2 of study, kept in" in ran.err


class Broken(io.BytesIO):
    def write(self, content) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def writelines(self, lines) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_call_that_broke_off_gives_the_same_changes_again_though_the_table_moved_on(run, lake, tmp_path, monkeypatch):
    """A row that came and went between would else stay in the copy of whoever had taken it already."""
    state = tmp_path / "study.cursor"
    call = ("changes", "study", "--state", state, "--format", "jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(Broken()))
        assert run(*call).code != 0
    lake.write(STUDY, Wanted([], gone=[study("1.2")]))
    ran = run(*call)
    assert ran.changes == [("insert", "1.1"), ("insert", "1.2")]
    assert "The last call did not end: its changes, up to version 1, come again." in ran.err
    assert run(*call).changes == [("delete", "1.2")]


def test_table_that_was_created_anew_is_not_taken_for_the_old_one(run, lake, tmp_path):
    call = ("changes", "study", "--state", tmp_path / "study.cursor", "--format", "jsonl")
    assert run(*call).code == 0
    Path(lake.uri(STUDY)).rename(tmp_path / "away")
    store(lake, study("1.9"))
    ran = run(*call)
    assert (ran.code, ran.out) == (1, "")
    assert "created anew" in ran.err


def test_unknown_table_is_told(run):
    assert (
        "There is no table patients. Tables are change_feed, instance" in run("changes", "patients", "--since", "1").err
    )


def test_python_gives_the_same_changes(lake, env):
    settings = load_settings(env)
    first = dicom_assets.changes("study", settings=settings)
    assert isinstance(first, dicom_assets.TableChanges)
    store(lake, study("1.3"))
    then = dicom_assets.changes("study", first.version, settings=settings)
    assert pa.table(then)["studyInstanceUid"].to_pylist() == ["1.3"]
    assert pa.table(first).num_rows == 2
    with pytest.raises(ValueError, match="needs a zone"):
        dicom_assets.changes("study", datetime(2026, 3, 1), settings=settings)  # noqa: DTZ001
    with pytest.raises(SettingsError, match="There is no table patients"):
        dicom_assets.changes("patients", settings=settings)


def test_reader_that_stops_early_ends_the_command_without_a_traceback(lake, env):
    sql = "SELECT * FROM generate_series(1, 10000000)"
    command = f"{sys.executable} -m dicom_assets.cli sql '{sql}' --format csv | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ran.stdout == '"value"\n'
    assert "Traceback" not in ran.stderr
