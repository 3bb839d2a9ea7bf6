"""What heals by itself is tried again, what does not fails at once: the one place where our errors become Dagster's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import dagster as dg

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
"""How a step is tried again: 30, 90 and 210 seconds later, each up to 30 more or less, so that runs do not come back
all at the same moment. Longer troubles are for the runs that follow.

Not the assets' `retry_policy`: with one, Dagster also tries a step again that someone has just cancelled."""

_HEALING = (
    CommitConflictError,
    FeedMovedError,
    LakeUnavailableError,
    ServiceUnreachableError,
    UnreadablePageError,  # a gateway's own page, while the service is moved or restarted
)


def heals(error: DicomAssetsError) -> bool:
    """Whether the same step may succeed some time later, without anyone doing anything."""
    return isinstance(error, _HEALING) and not isinstance(error, LakeRefusedError)


@contextmanager
def retrying(attempts_before: int) -> Iterator[None]:
    """Our errors inside ask Dagster for another attempt, or fail the step with their own words alone.

    Args:
        attempts_before: of this step in this run.

    Raises:
        dagster.RetryRequested: after an error that heals, as long as RETRIES allows.
        dagster.Failure: after any other error of ours, or the last attempt.
    """
    try:
        yield
    except DicomAssetsError as error:
        if heals(error) and attempts_before < RETRIES.max_retries:
            seconds = RETRIES.calculate_delay(attempts_before + 1)
            raise dg.RetryRequested(RETRIES.max_retries, seconds_to_wait=seconds) from error
        fail(error)


def fail(error: DicomAssetsError, metadata: Mapping[str, Any] | None = None) -> NoReturn:
    """Fails the step in the error's own words, which alerts tell too.

    Raises:
        dagster.Failure: always.
    """
    raise dg.Failure(str(error), metadata=metadata, allow_retries=False) from error
