"""The project's definitions, for tests: steps are tried again once, in a moment, and every hour is written at once."""

from datetime import timedelta

import dagster as dg

from dicom_assets.defs.checks import failure
from dicom_assets.derive import extract

extract.BATCH_TIME = timedelta(0)
failure.RETRIES = dg.RetryPolicy(max_retries=1, delay=0.2)

from dicom_assets.definitions import defs  # noqa: E402 - with these

__all__ = ["defs"]
