"""Findings as checks return them: without the check's name, which the examination adds."""

from functools import partial

from dicom_assets.core.finding import Finding, Status

green = partial(Finding, "", Status.GREEN)
yellow = partial(Finding, "", Status.YELLOW)
red = partial(Finding, "", Status.RED)
skipped = partial(Finding, "", Status.SKIPPED)
