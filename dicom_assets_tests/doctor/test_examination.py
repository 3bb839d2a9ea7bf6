"""Which checks run, and what becomes of those whose ground is gone."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dicom_assets.core.finding import Finding, Status
from dicom_assets.doctor import examination, report
from dicom_assets.doctor.examination import CHECKS, DoctorCheck, choose_checks
from dicom_assets_tests.processes import clean_environment, run_command

NAMES = [check.name for check in CHECKS]


def run(ward, *arguments):
    return run_command("doctor", *arguments, env=clean_environment(**ward.env))


def test_all_is_well_but_for_the_daemon_which_does_not_run(ward):
    result = run(ward)
    lines = [line for line in result.stdout.splitlines() if line.startswith(("✓", "!", "✗", "–"))]
    assert [line.split()[2] for line in lines] == NAMES
    assert {line.split()[1] for line in lines[:-1]} == {"green"}, result.stdout
    assert "red     dagster.daemons   The daemon never ran." in lines[-1]
    assert "Start it (`dagster-daemon run`" in result.stdout
    assert result.stdout.endswith(f"\n{len(NAMES) - 1} green, 1 red: fix dagster.daemons, or runs will fail.\n")
    assert (result.returncode, result.stderr) == (1, "")
    assert not (ward.folder / "lake" / "_doctor").exists()


def test_json_keeps_its_shape(ward):
    result = run(ward, "--json", "service", "lake.reach")
    assert (result.returncode, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    assert list(content) == ["version", "healthy", "findings"]
    assert (content["version"], content["healthy"]) == (1, True)
    names = ["settings", "token.service", "token.storage", "service.reachable", "service.clock", "service.feed"]
    assert [finding["check"] for finding in content["findings"]] == [*names, "lake.reach"]
    for finding in content["findings"]:
        assert list(finding) == ["check", "status", "found", "why", "remedy", "facts"]
    assert content["findings"][5]["facts"] == {
        "api_version": 2,
        "newest_sequence": 1,
        "newest_time": "2026-03-01T00:00:00.0000000Z",
    }


def test_settings_that_cannot_be_used_are_listed_and_dagster_is_checked_all_the_same(ward):
    ward.env |= {"DICOM_BATCH_SIZE": "0", "DICOM_CONTAINER_NAME": "No"}
    found = ward.examine()
    assert found["settings"].status is Status.RED
    assert "DICOM_BATCH_SIZE" in found["settings"].found
    assert "DICOM_CONTAINER_NAME" in found["settings"].found
    dagster = {name for name in NAMES if name.startswith("dagster.")} - {"dagster.lake"}
    skipped = {name for name, finding in found.items() if finding.status is Status.SKIPPED}
    assert skipped == set(NAMES) - dagster - {"settings"}
    assert found["lake.appends"].found == "Not checked: settings must be green first"
    assert found["dagster.pool"].status is Status.GREEN


def test_page_on_operations_names_every_check():
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`([\w.]+)`", cell) for cell in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)]
    named = {f"{cell[0].partition('.')[0]}{name}" if name.startswith(".") else name for cell in rows for name in cell}
    assert set(NAMES) <= named


def test_no_service_is_red(ward):
    del ward.env["DICOM_SERVICE_URL"]
    assert "DICOM_SERVICE_URL is not set" in ward.examine("settings")["settings"].found


def test_command_without_dagsters_checks_does_not_import_dagster(ward):
    code = (
        "import sys; from dicom_assets.cli.app import app; app(['doctor', 'lake', 'service'], standalone_mode=False)\n"
    )
    script = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
    script += "assert 'dagster' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], env=clean_environment(**ward.env), check=True)


def test_unknown_check_is_told(ward):
    result = run(ward, "nope")
    assert result.returncode == 2
    assert "there is no such check" in result.stderr


def test_what_a_check_needs_is_checked_too_and_trials_are_cleared_away():
    assert [check.name for check in choose_checks(["lake.write"])] == [
        "settings", "token.storage", "lake.reach", "lake.write", "lake.clean",
    ]  # fmt: skip
    assert choose_checks([]) == list(CHECKS)
    assert choose_checks(["lak"]) == []


def test_needs_come_first():
    for place, check in enumerate(CHECKS):
        assert set(check.needs) <= set(NAMES[:place]), check.name


@pytest.mark.parametrize(("name", "told"), [("dagster.x", "dagster instance info"), ("lake.x", "report it")])
def test_error_that_was_not_foreseen_is_told_without_its_text(ward, name, told):
    def fail(surroundings):
        raise KeyError("password=hidden")

    finding = examination._run(DoctorCheck(name, fail), None)
    assert (finding.status, finding.found) == (
        Status.RED,
        "It ended with an error that was not foreseen (builtins.KeyError)",
    )
    assert told in finding.remedy


def told(*findings, **console):
    """What a person sees, and whether all findings came back."""
    stream = io.StringIO()
    console = Console(file=stream, color_system=None, **console)
    assert report.print_findings(iter(findings), console) == list(findings)
    return stream.getvalue()


LONG = Finding("a.b", Status.YELLOW, "It is so " + 10 * "and so ", why="It may be", remedy="Do it!")


def test_description_has_the_reason_and_what_to_do():
    assert told(LONG, width=40) == (
        f"! yellow  a.b               It is so {10 * 'and so '}.\n"
        "                       why  It may be.\n"
        "                        do  Do it!\n"
        "\n1 yellow.\n"
    ), "lines stay whole where no terminal breaks them"


def test_terminal_breaks_lines_between_words_and_keeps_the_columns():
    shown = told(LONG, width=60, force_terminal=True).splitlines()
    assert [line.rstrip() for line in shown] == [
        "! yellow  a.b               It is so and so and so and so",
        "                            and so and so and so and so and",
        "                            so and so and so .",
        "                       why  It may be.",
        "                        do  Do it!",
        "",
        "1 yellow.",
    ]


def test_checks_skipped_in_a_row_for_one_reason_take_one_line():
    red = [Finding(name, Status.RED, "No") for name in ("a", "f")]
    skipped = [Finding(name, Status.SKIPPED, "Not checked: a must be green first") for name in "bcd"]
    other = Finding("e", Status.SKIPPED, "There is nothing to check")
    shown = told(red[0], *skipped, other, red[1])
    assert shown == (
        "✗ red     a                 No.\n"
        "– skipped b                 Not checked: a must be green first; the same for c, d.\n"
        "– skipped e                 There is nothing to check.\n"
        "✗ red     f                 No.\n"
        "\n2 red, 4 skipped: fix a, f, or runs will fail.\n"
    )


def test_findings_are_told_as_they_come():
    stream = io.StringIO()

    def findings():
        yield Finding("a", Status.GREEN, "First")
        assert "First" in stream.getvalue()
        yield Finding("b", Status.GREEN, "Second")

    assert report.is_healthy(report.print_findings(findings(), Console(file=stream)))
