"""How late an hour may be."""

from datetime import timedelta

import dagster as dg

from dicom_assets.core.change_feed import HOUR

_SHORTEST_DELAY = timedelta(minutes=5)
"""A delay that is shorter counts as this: a run needs its time too."""


def allowed_lateness(delay: timedelta) -> timedelta:
    """How long after its end an hour may be missing: it is due after the delay, and late two delays after that."""
    return delay + 2 * max(delay, _SHORTEST_DELAY)


def build_freshness_policy(delay: timedelta) -> dg.FreshnessPolicy:
    """Overdue where nothing was materialised for an hour and its allowed lateness."""
    return dg.FreshnessPolicy.time_window(fail_window=HOUR + allowed_lateness(delay))
