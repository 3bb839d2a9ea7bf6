"""`dicom-assets doctor` as a Dagster job: it runs the checks where Dagster runs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dagster as dg

from dicom_assets.core.finding import Finding, Status
from dicom_assets.defs.naming import PLAIN, Naming

_LEVELS = {Status.GREEN: "info", Status.YELLOW: "warning", Status.RED: "error", Status.SKIPPED: "info"}


def build_doctor_job(
    checks: Sequence[str], examine: Callable[[dg.DagsterInstance], Iterable[Finding]], naming: Naming = PLAIN
) -> dg.JobDefinition:
    """Return the job `doctor`. Its only step has an output with metadata for each check, and fails if one is red.

    Args:
        checks: Names of the checks.
        examine: Runs the checks, and returns one finding for each.
        naming: Names of the service's parts.
    """
    outputs = {_output(name): dg.Out(dg.Nothing, description=f"Finding of the check {name}.") for name in checks}

    @dg.op(name=naming.name("examine_surroundings"), out=outputs)
    def examine_surroundings(context: dg.OpExecutionContext) -> Any:
        """Check settings, tokens, the service, the lake, the files and Dagster for everything that runs need."""
        red = []
        for finding in examine(context.instance):
            getattr(context.log, _LEVELS[finding.status])("%s: %s", finding.check, finding.found)
            if finding.status is Status.RED:
                red.append(finding)
            yield dg.Output(None, _output(finding.check), metadata=describe(finding))
        if red:
            raise dg.Failure(
                f"{len(red)} of {len(checks)} checks found what makes runs fail.",
                metadata={finding.check: f"{finding.found}. {finding.remedy}" for finding in red},
                allow_retries=False,
            )

    @dg.job(
        name=naming.name("doctor"),
        executor_def=dg.in_process_executor,
        description="Checks everything that runs need, as `dicom-assets doctor` does.",
    )
    def doctor() -> None:
        examine_surroundings()

    return doctor


def describe(finding: Finding) -> dict[str, Any]:
    """Return the finding's fields as metadata, without empty ones."""
    members = {"status": finding.status.value, "found": finding.found, "why": finding.why, "remedy": finding.remedy}
    facts = {f"facts/{name}": value for name, value in finding.facts.items()}
    return {name: value for name, value in {**members, **facts}.items() if value not in ("", None)}


def _output(check: str) -> str:
    return check.replace(".", "_")
