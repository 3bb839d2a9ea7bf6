"""Freshness policy of the assets: how late an hour may be."""

from datetime import timedelta

import dagster as dg

from dicom_assets.core.tables.change_feed import HOUR

_SHORTEST_DELAY = timedelta(minutes=5)
"""Shorter delays count as this one, since a run takes time too."""


def allowed_lateness(delay: timedelta) -> timedelta:
    """Return how long after its end an hour may be missing: it is due after the delay, and late two delays later."""
    return delay + 2 * max(delay, _SHORTEST_DELAY)


def build_freshness_policy(delay: timedelta) -> dg.FreshnessPolicy:
    """Return a policy that fails when nothing was materialised for an hour plus the allowed lateness."""
    return dg.FreshnessPolicy.time_window(fail_window=HOUR + allowed_lateness(delay))
