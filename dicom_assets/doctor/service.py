"""Checks of the DICOM service: whether it answers, its feed can be read, and its clock agrees with this machine's."""

from datetime import timedelta

from dicom_assets.config.connections import open_client
from dicom_assets.config.settings import Settings
from dicom_assets.core.errors import ServiceRefusedError
from dicom_assets.core.finding import Finding, Status
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.network.retries import RetryPolicy

NOTICED_SECONDS = 30
"""Difference of the clocks up to which the check is green."""
REFUSED_SECONDS = 300
"""Difference of clocks that Microsoft Entra's tokens tolerate."""
_RETRY = RetryPolicy(tries=3)


def check_reachable(surroundings: Surroundings) -> Finding:
    """Check that the service gives any answer."""
    answer = surroundings.answer
    return Finding(
        "service.reachable",
        Status.GREEN,
        f"{surroundings.settings.service_url} answers ({answer.status} to a request without a token)",
        facts={"status": answer.status, "seconds": round(answer.seconds, 3)},
    )


def check_clock(surroundings: Surroundings) -> Finding:
    """Check that the service's clock agrees with this machine's."""
    from email.utils import parsedate_to_datetime

    answer, check = surroundings.answer, "service.clock"
    try:
        date = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return Finding(
            check,
            Status.YELLOW,
            "The service does not say what time it has",
            why="Its answer has no Date header; a proxy may have taken it out",
            remedy="See to it that this machine's clock is kept by NTP",
        )
    # The header has whole seconds, rounded down. The answer was written between the request and the answer's arrival.
    behind = date + timedelta(seconds=0.5) - (answer.asked_at + timedelta(seconds=answer.seconds / 2))
    off = abs(behind.total_seconds())
    facts = {"ahead_seconds": round(-behind.total_seconds(), 1)}
    if off <= NOTICED_SECONDS:
        return Finding(check, Status.GREEN, "This machine and the service have the same time", facts=facts)
    delay = surroundings.settings.window_delay_minutes * 60
    ahead = behind.total_seconds() < 0
    too_far = off >= REFUSED_SECONDS or (ahead and off >= delay)
    return Finding(
        check,
        Status.RED if too_far else Status.YELLOW,
        f"This machine's clock is {off:,.0f} seconds {'ahead of' if ahead else 'behind'} the service's",
        why="Tokens look expired or not yet valid then; and a clock that is ahead has hours read before all their "
        "changes are committed",
        remedy="Let NTP keep the clock"
        + (", and materialise the last hours again" if too_far and ahead else "")
        + "; meanwhile a greater DICOM_WINDOW_DELAY_MINUTES helps",
        facts=facts,
    )


def check_feed(surroundings: Surroundings) -> Finding:
    """Check that the newest entry of the change feed can be read as runs read it."""
    settings, check = surroundings.settings, "service.feed"
    try:
        facts = _read(settings)
    except ServiceRefusedError as error:
        if settings.api_version == 2 or not _knows_version_2(settings):  # noqa: PLR2004 — the oldest version
            raise
        return Finding(
            check,
            Status.RED,
            f"The service does not know version {settings.api_version} of its API, but version 2",
            why=str(error).partition(". ")[0],
            remedy="Set DICOM_API_VERSION=2, or unset it",
        )
    if facts["newest_sequence"] is None:
        return Finding(
            check,
            Status.GREEN,
            f"The change feed can be read (API version {settings.api_version}); it has no entry yet",
            facts=facts,
        )
    return Finding(
        check,
        Status.GREEN,
        f"The change feed can be read (API version {settings.api_version}); its newest entry is sequence "
        f"{facts['newest_sequence']} of {facts['newest_time']}",
        facts=facts,
    )


def _read(settings: Settings) -> dict[str, str | int | None]:
    with open_client(settings, retry=_RETRY) as client:
        newest = client.fetch_latest()
    return {
        "api_version": settings.api_version,
        "newest_sequence": None if newest is None else newest.sequence,
        "newest_time": None if newest is None else newest.timestamp,
    }


def _knows_version_2(settings: Settings) -> bool:
    try:
        _read(settings.model_copy(update={"api_version": 2}))
    except ServiceRefusedError:
        return False
    return True
