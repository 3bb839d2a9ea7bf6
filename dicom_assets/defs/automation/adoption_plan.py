"""Plan of `dicom-assets adopt`: the hours in the lake that a Dagster instance may record as materialised.

An hour is reported only with proof: the service has as many entries of the hour as the lake, and the studies of the
hour agree in all tables. The sensors read all other hours; reading an hour again changes nothing in the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from dicom_assets.config.connections import build_lake, open_client
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, Table
from dicom_assets.core.errors import CommitConflictError, LakeError, LakeLostError, UnknownHourError
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.automation.adoption import Adoption, find_busy, find_known
from dicom_assets.defs.automation.run_requests import join_hours
from dicom_assets.defs.naming import Naming
from dicom_assets.defs.partitions import Hours
from dicom_assets.derive.agreement import find_disagreeing
from dicom_assets.derive.counts import StoredCount, count_stored, find_complete, find_hours
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot


@dataclass(frozen=True)
class AdoptionPlan:
    """Plan for the hours of a window: the hours to report to Dagster, and the reasons to leave out others."""

    window: Window
    adoptions: list[Adoption] = field(default_factory=list)
    known: frozenset[datetime] = frozenset()
    """Hours that Dagster records as materialised in every asset."""
    busy: frozenset[datetime] = frozenset()
    """Hours of queued or running runs."""
    behind: frozenset[datetime] = frozenset()
    """Hours that are not in the lake, or of which the service has more entries."""
    torn: frozenset[datetime] = frozenset()
    """Hours with studies in which a table disagrees with its source table."""
    disagreeing: dict[str, int] = field(default_factory=dict)
    """Number of disagreeing studies, by table that disagrees with its source table or is missing."""

    @property
    def reported(self) -> frozenset[datetime]:
        """Hours to report to Dagster in at least one asset."""
        return frozenset[datetime]().union(*(each.hours for each in self.adoptions))


def choose_window(settings: Settings, now: datetime, since: datetime | None, until: datetime | None) -> Window:
    """Return the hours to consider: those between two times, within the hours that are due.

    Args:
        settings: settings with the first hour.
        now: current time, with a time zone.
        since: start of the first hour; None for the first hour of the settings.
        until: end of the last hour; None for the end of the last hour that is due.

    Raises:
        UnknownHourError: no hour is left, or the first one precedes the settings' first hour.
    """
    delay = timedelta(minutes=settings.window_delay_minutes)
    due = Hours(settings.first_hour, settings.end_time, delay).due_until(now)
    start, end = since or settings.first_hour, min(due, until or due)
    if settings.first_hour <= start < end:
        return Window(start, end)
    raise UnknownHourError(
        f"There is no hour to look at between {start:%Y-%m-%d %H:%MZ} and {end:%Y-%m-%d %H:%MZ}. Hours begin with "
        f"{settings.first_hour:%Y-%m-%d %H:%MZ} (DICOM_START_TIME), and the last one that is due ends at "
        f"{due:%Y-%m-%d %H:%MZ}."
    )


def plan_adoption(
    settings: Settings,
    instance: dg.DagsterInstance,
    window: Window,
    now: datetime,
    naming: Naming,
    *,
    forgetting: bool = False,
) -> AdoptionPlan:
    """Return the plan, from Dagster, the lake and the service, without changing anything.

    Args:
        settings: settings that name the service and the lake.
        instance: Dagster instance to read.
        window: hours to consider.
        now: current time, with a time zone.
        naming: names of the service's assets.
        forgetting: whether to plan as if Dagster had no materialised hours on record.

    Raises:
        LakeError: there is no lake, or the lake belongs to another service, or a run is writing the lake.
        ServiceError: the service cannot be asked.
    """
    lake = build_lake(settings)
    keys = {table.name: naming.key(table) for table in settings.tables}
    known = {name: set[datetime]() if forgetting else find_known(instance, key) for name, key in keys.items()}
    busy = find_busy(instance, list(keys.values()), now)
    if forgetting and busy:
        raise CommitConflictError(
            f"{len(busy):,} hours are in runs that wait or run, and Dagster would forget what these store. Wait until "
            "they have ended, or cancel them, and stop the daemon meanwhile."
        )
    hours = {hour.start for hour in window.hours()}
    tables = {table.name: lake.open(table) for table in settings.tables}
    feed = tables[CHANGE_FEED.name]
    if feed is None:
        if forgetting:
            return AdoptionPlan(window, behind=frozenset(hours))
        raise LakeLostError(
            f"There is no table at {lake.uri(CHANGE_FEED)}, so there is nothing to report to Dagster. Check "
            "DICOM_STORAGE_URL, DICOM_CONTAINER_NAME and DICOM_CHANGE_FEED_TABLE_PATH. If the lake is gone for good, "
            "--forget has Dagster begin anew."
        )
    done = set.intersection(*known.values()) & hours
    asked = hours - done - busy
    stored = count_stored(feed, window)
    complete = _find_complete(settings, stored, asked)
    held, disagreeing = _find_held(lake, settings.tables, feed, tables, complete) if complete else ({}, {})
    entries = {hour: of_hour.entries for hour, of_hour in stored.items()}
    adoptions = [
        Adoption(
            keys[name],
            frozenset(complete - held[name] - known[name]),
            snapshot.version,
            snapshot.table_id,
            entries if name == CHANGE_FEED.name else None,
        )
        for name, snapshot in tables.items()
        if snapshot is not None and complete
    ]
    _require_unmoved(lake, settings.tables, tables)
    torn = set[datetime]().union(*(held[name] - known[name] for name in held))
    return AdoptionPlan(
        window,
        adoptions,
        known=frozenset(done),
        busy=frozenset(busy & hours),
        behind=frozenset(asked - complete),
        torn=frozenset(torn),
        disagreeing=disagreeing,
    )


def _find_complete(settings: Settings, stored: Mapping[datetime, StoredCount], asked: set[datetime]) -> set[datetime]:
    """Return the hours of which the lake has as many entries as the service."""
    with open_client(settings) as service:
        return {
            hour.start
            for window in join_hours(asked, lambda _: len(asked))
            for hour in find_complete(service, stored, window)
        }


def _find_held(
    lake: Lake, kept: Sequence[Table], feed: Snapshot, tables: Mapping[str, Snapshot | None], complete: set[datetime]
) -> tuple[dict[str, set[datetime]], dict[str, int]]:
    """Return the complete hours that must not be reported, because tables disagree.

    Returns:
        The hours by table, and the number of disagreeing studies by table that disagrees or is missing.

    Raises:
        LakeError: `change_feed` has several rows of one entry, so its rows prove nothing.
    """
    disagreeing = find_disagreeing(lake, kept)
    if len(disagreeing.pop(CHANGE_FEED.name)):
        raise LakeError(
            "change_feed has several rows of the same entry: something else than this project wrote it. Restore it to "
            "the version before (see docs/operations.md), then run this again. Nothing was reported to Dagster."
        )
    held: dict[str, set[datetime]] = {CHANGE_FEED.name: set()}
    for name, studies in disagreeing.items():
        of_table = complete if tables[name] is None else find_hours(feed, studies) & complete
        is_made_from_feed = name in (INSTANCE.name, HEALTHCARE_INSTANCE.name)
        held[name] = of_table if is_made_from_feed else of_table | held[INSTANCE.name]
    return held, {name: len(studies) for name, studies in disagreeing.items() if len(studies) or tables[name] is None}


def _require_unmoved(lake: Lake, kept: Sequence[Table], tables: Mapping[str, Snapshot | None]) -> None:
    for table in kept:
        snapshot = tables[table.name]
        if not lake.has_version(table, None if snapshot is None else snapshot.version):
            raise CommitConflictError(
                f"{table.name} was written while it was looked at, so that nothing is proved. Wait until runs have "
                "ended, or stop the daemon, and run this again. Nothing was reported to Dagster."
            )
