"""Runs in this process fail at their first error that would heal, instead of minutes later."""

import dagster as dg
import pytest

from dicom_assets.defs import failure


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(failure, "RETRIES", dg.RetryPolicy(max_retries=0))
