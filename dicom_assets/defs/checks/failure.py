"""The project's errors as Dagster's: transient ones are retried, others fail the step at once.

No other module turns the project's errors into Dagster's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import dagster as dg

from dicom_assets.config.project import link_pages
from dicom_assets.core.errors import (
    CommitConflictError,
    DicomAssetsError,
    FeedMovedError,
    LakeRefusedError,
    LakeUnavailableError,
    ServiceUnreachableError,
    UnreadablePageError,
)

RETRIES = dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Retry policy of a step: retries after 30, 90 and 210 seconds, each up to 30 seconds more or less, so that runs do
not all retry at the same moment. Later runs make up for outages that last longer.

It is not set as the assets' `retry_policy`: Dagster would then also retry a step that a person has just cancelled."""

_HEALING = (
    CommitConflictError,
    FeedMovedError,
    LakeUnavailableError,
    ServiceUnreachableError,
    UnreadablePageError,  # a gateway's own page, while the service is moved or restarted
)


def heals(error: DicomAssetsError) -> bool:
    """Return whether a retry may succeed after a while, without any change by a person."""
    return isinstance(error, _HEALING) and not isinstance(error, LakeRefusedError)


@contextmanager
def retrying(attempts_before: int) -> Iterator[None]:
    """Convert the project's errors in the block: request a retry from Dagster, or fail the step.

    Args:
        attempts_before: Number of earlier attempts of this step in this run.

    Raises:
        dagster.RetryRequested: A transient error was raised, and RETRIES allows another attempt.
        dagster.Failure: Another of the project's errors was raised, or this was the last attempt. Its text is the
            error's text.
    """
    try:
        yield
    except DicomAssetsError as error:
        if heals(error) and attempts_before < RETRIES.max_retries:
            seconds = RETRIES.calculate_delay(attempts_before + 1)
            raise dg.RetryRequested(RETRIES.max_retries, seconds_to_wait=seconds) from error
        fail(error)


def fail(error: DicomAssetsError, metadata: Mapping[str, Any] | None = None) -> NoReturn:
    """Fail the step with the error's text, which alerts show too.

    Raises:
        dagster.Failure: Always.
    """
    raise dg.Failure(link_pages(str(error)), metadata=metadata, allow_retries=False) from error
