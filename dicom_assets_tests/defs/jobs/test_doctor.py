"""The job `doctor`, run by Dagster."""

import dagster as dg

from dicom_assets.config.settings import load_settings
from dicom_assets.core.finding import Finding, Status
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.jobs.doctor import build_doctor_job
from dicom_assets.doctor.examination import CHECKS

FINDINGS = (
    Finding("a.one", Status.GREEN, "It is well", facts={"rows": 3, "nothing": None}),
    Finding("a.two", Status.YELLOW, "It is odd", why="So it seems", remedy="Look"),
)


def run(*findings, tmp_path):
    job = build_doctor_job([finding.check for finding in findings], lambda instance: findings)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False)


def outputs(result):
    """Metadata by check."""
    events = [event for event in result.all_events if event.is_successful_output]
    return {
        event.event_specific_data.step_output_handle.output_name: {
            name: value.value for name, value in event.event_specific_data.metadata.items()
        }
        for event in events
    }


def test_every_check_has_its_metadata(tmp_path):
    result = run(*FINDINGS, tmp_path=tmp_path)
    assert result.success
    assert outputs(result) == {
        "a_one": {"status": "green", "found": "It is well", "facts/rows": 3},
        "a_two": {"status": "yellow", "found": "It is odd", "why": "So it seems", "remedy": "Look"},
    }


def test_red_fails_the_run_after_all_was_told(tmp_path):
    red = Finding("a.red", Status.RED, "It is broken", remedy="Mend it")
    result = run(red, *FINDINGS, tmp_path=tmp_path)
    assert not result.success
    assert set(outputs(result)) == {"a_red", "a_one", "a_two"}
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data.description == "1 of 3 checks found what makes runs fail."
    assert data.metadata["a.red"].value == "It is broken. Mend it"


def test_project_has_the_job_with_all_checks(tmp_path):
    env = {"DICOM_STORAGE_URL": str(tmp_path / "lake"), "DICOM_AUTHENTICATION": "none"}
    job = build_definitions(load_settings(env)).resolve_job_def("doctor")
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success  # no service is set
    found = outputs(result)
    assert set(found) == {check.name.replace(".", "_") for check in CHECKS}
    assert "DICOM_SERVICE_URL is not set" in found["settings"]["found"]
    assert found["dagster_home"]["status"] == "green"
    assert not (tmp_path / "lake").exists()
