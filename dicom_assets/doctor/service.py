"""Checks of the DICOM service: whether it answers, its feed can be read, and its clock agrees with this machine's."""

from datetime import timedelta

from dicom_assets.config.connections import open_client
from dicom_assets.config.settings import Settings
from dicom_assets.core.errors import ServiceRefusedError
from dicom_assets.core.finding import Finding
from dicom_assets.doctor.findings import green, red, yellow
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
    return green(
        f"{surroundings.settings.service_url} answers ({answer.status} to a request without a token)",
        facts={"status": answer.status, "seconds": round(answer.seconds, 3)},
    )


def check_clock(surroundings: Surroundings) -> Finding:
    """Check that the service's clock agrees with this machine's."""
    from email.utils import parsedate_to_datetime

    answer = surroundings.answer
    try:
        date = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return yellow(
            "The service does not say what time it has",
            why="Its answer has no Date header; a proxy may have taken it out",
            remedy="See to it that this machine's clock is kept by NTP",
        )
    # The header has whole seconds, rounded down. The answer was written between the request and the answer's arrival.
    behind = date + timedelta(seconds=0.5) - (answer.asked_at + timedelta(seconds=answer.seconds / 2))
    off = abs(behind.total_seconds())
    facts = {"ahead_seconds": round(-behind.total_seconds(), 1)}
    if off <= NOTICED_SECONDS:
        return green("This machine and the service have the same time", facts=facts)
    delay = surroundings.settings.window_delay_minutes * 60
    ahead = behind.total_seconds() < 0
    too_far = off >= REFUSED_SECONDS or (ahead and off >= delay)
    judge = red if too_far else yellow
    return judge(
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
    settings = surroundings.settings
    try:
        facts = _read_newest(settings)
    except ServiceRefusedError as error:
        if settings.api_version == 2 or not _supports_version_2(settings):  # noqa: PLR2004 — the oldest version
            raise
        return red(
            f"The service does not know version {settings.api_version} of its API, but version 2",
            why=str(error).partition(". ")[0],
            remedy="Set DICOM_API_VERSION=2, or unset it",
        )
    newest = f"its newest entry is sequence {facts['newest_sequence']} of {facts['newest_time']}"
    if facts["newest_sequence"] is None:
        newest = "it has no entry yet"
    return green(f"The change feed can be read (API version {settings.api_version}); {newest}", facts=facts)


def _read_newest(settings: Settings) -> dict[str, str | int | None]:
    with open_client(settings, retry=_RETRY) as client:
        newest = client.fetch_latest()
    return {
        "api_version": settings.api_version,
        "newest_sequence": None if newest is None else newest.sequence,
        "newest_time": None if newest is None else newest.timestamp,
    }


def _supports_version_2(settings: Settings) -> bool:
    try:
        _read_newest(settings.model_copy(update={"api_version": 2}))
    except ServiceRefusedError:
        return False
    return True
