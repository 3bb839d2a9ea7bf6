"""All checks in their order: each runs by itself, unless a check that it needs was red."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dicom_assets.core.errors import DicomAssetsError, LakeError, ServiceRefusedError
from dicom_assets.core.finding import Finding, Status
from dicom_assets.doctor import engine, files, lake, orchestration, service, tokens
from dicom_assets.doctor.findings import green
from dicom_assets.doctor.surroundings import Surroundings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoctorCheck:
    """Check, and the checks that must be green before it."""

    name: str
    run: Callable[[Surroundings], Finding]
    """Returns the finding, without the check's name."""
    needs: tuple[str, ...] = ()
    """Names of the checks that this check needs."""


def check_settings(surroundings: Surroundings) -> Finding:
    """Check that every setting is valid, and that there is a service."""
    surroundings.settings.require_service_url()
    return green("All settings can be used")


CHECKS = (
    DoctorCheck("settings", check_settings),
    DoctorCheck("token.service", tokens.check_service_token, ("settings",)),
    DoctorCheck("token.storage", tokens.check_storage_token, ("settings",)),
    DoctorCheck("service.reachable", service.check_reachable, ("settings",)),
    DoctorCheck("service.clock", service.check_clock, ("service.reachable",)),
    DoctorCheck("service.feed", service.check_feed, ("service.reachable", "token.service")),
    DoctorCheck("lake.reach", lake.check_reach, ("token.storage",)),
    DoctorCheck("lake.dates", lake.check_dates, ("lake.reach",)),
    DoctorCheck("lake.write", lake.check_write, ("lake.reach",)),
    DoctorCheck("lake.list", lake.check_list, ("lake.write",)),
    DoctorCheck("lake.delete", lake.check_delete, ("lake.list",)),
    DoctorCheck("lake.appends", lake.check_appends, ("lake.write",)),
    DoctorCheck("lake.writers", lake.check_writers, ("lake.write",)),
    DoctorCheck("engine.merge", engine.check_merge, ("lake.write",)),
    DoctorCheck("lake.clean", lake.check_clean, ("lake.reach",)),
    DoctorCheck("files.read", files.check_files, ("lake.reach",)),
    DoctorCheck("dagster.home", orchestration.check_home),
    DoctorCheck("dagster.storage", orchestration.check_storage, ("dagster.home",)),
    DoctorCheck("dagster.pool", orchestration.check_pool, ("dagster.storage",)),
    DoctorCheck("dagster.lake", orchestration.check_lake, ("lake.reach", "dagster.storage")),
    DoctorCheck("dagster.daemons", orchestration.check_daemons, ("dagster.storage",)),
)
"""All checks, in the order in which a person would look; a check comes after the checks that it needs."""


def choose_checks(wanted: Sequence[str]) -> list[DoctorCheck]:
    """Return the wanted checks and all checks that they need, in order.

    Args:
        wanted: names or beginnings of names (`lake`); empty for all checks.
    """
    chosen = {
        check.name
        for check in CHECKS
        if not wanted or any(check.name == each or check.name.startswith(f"{each}.") for each in wanted)
    }
    for check in reversed(CHECKS):
        if check.name in chosen:
            chosen |= set(check.needs)
    if "lake.write" in chosen:
        chosen.add("lake.clean")
    return [check for check in CHECKS if check.name in chosen]


def examine(surroundings: Surroundings, checks: Sequence[DoctorCheck] = CHECKS) -> Iterator[Finding]:
    """Yield the finding of each check as soon as it ends; at the end delete the trials and close the surroundings."""
    failed: dict[str, str] = {}
    """Red check that is to blame, by red or skipped check."""
    try:
        for check in checks:
            if blamed := next((failed[need] for need in check.needs if need in failed), None):
                failed[check.name] = blamed
                yield Finding(check.name, Status.SKIPPED, f"Not checked: {blamed} must be green first")
                continue
            finding = _run(check, surroundings)
            if finding.status is Status.RED:
                failed[check.name] = check.name
            yield finding
    finally:
        try:
            if surroundings.scratch_was_used:
                lake.clear_away(surroundings)
        except Exception as error:
            logger.debug("The scratch folder could not be cleared away (%s).", type(error).__name__)
        surroundings.close()


def _run(check: DoctorCheck, surroundings: Surroundings) -> Finding:
    try:
        return replace(check.run(surroundings), check=check.name)
    except DicomAssetsError as error:
        finding = Finding.of_error(check.name, error)
        signer = surroundings.object_ids.get("token.storage" if isinstance(error, LakeError) else "token.service")
        if signer and isinstance(error, ServiceRefusedError | LakeError):
            who = f"The identity's object id is {signer}"
            return replace(finding, remedy=f"{finding.remedy.rstrip('.')}. {who}")
        return finding
    except Exception as error:
        # The error's text may hold anything, such as a password in a connection string.
        logger.debug("The check %s ended with %s.", check.name, type(error).__name__)
        return Finding(
            check.name,
            Status.RED,
            f"It ended with an error that was not foreseen ({type(error).__module__}.{type(error).__name__})",
            why="What it looked at cannot be reached, or is damaged",
            remedy=_ELSEWHERE.get(check.name.partition(".")[0], "Run it again; if it stays so, report it"),
        )


_ELSEWHERE = {
    "dagster": "Check dagster.yaml in DAGSTER_HOME, and that the database it names can be reached from here; "
    "`dagster instance info` says more"
}
