"""`dicom-assets adopt`: report the hours in the lake to a Dagster instance that does not know them.

An hour is reported only with proof: the service has as many entries of the hour as the lake, and the studies of the
hour agree in all tables. The sensors read all other hours; reading an hour again changes nothing in the tables.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid

from dicom_assets.config.connections import build_lake, open_client
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, Table
from dicom_assets.core.errors import CommitConflictError, LakeError, LakeLostError, SettingsError, UnknownHourError
from dicom_assets.core.finding import Status
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.automation.adoption import Adoption, find_busy, find_known, forget, tell
from dicom_assets.defs.history.hour_runs import Span, build_spans
from dicom_assets.defs.naming import Naming
from dicom_assets.defs.partitions import Hours
from dicom_assets.derive.agreement import find_disagreeing
from dicom_assets.derive.coverage import Stored, count_stored, find_complete, find_hours
from dicom_assets.doctor.orchestration import check_home
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot

_SPANS_SHOWN = 5


@dataclass(frozen=True)
class Plan:
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
    def told(self) -> frozenset[datetime]:
        """Hours to report to Dagster in at least one asset."""
        return frozenset[datetime]().union(*(each.hours for each in self.adoptions))


def run_adopt(
    console: Console,
    settings: Settings,
    *,
    home: str | None,
    now: Callable[[], datetime],
    since: datetime | None = None,
    until: datetime | None = None,
    forgetting: bool = False,
    dry_run: bool = False,
) -> None:
    """Report the hours in the lake to the Dagster instance of DAGSTER_HOME, and print the plan and the result.

    Args:
        console: console for the output.
        settings: settings that name the service, the lake and the first hour.
        home: value of DAGSTER_HOME.
        now: function that returns the current time, with a time zone.
        since: first hour to consider; None for the first hour of the settings.
        until: end of the last hour to consider, at most the end of the last hour that is due, which is the default.
        forgetting: whether to wipe all materialised hours from Dagster's records first.
        dry_run: whether to print the plan only, without reporting or wiping anything.

    Raises:
        DicomAssetsError: DAGSTER_HOME cannot be used, or there is no lake, or the lake belongs to another service, or
            a run is writing the lake.
    """
    finding = check_home(Surroundings(lambda: settings, now, dagster_home=home))
    if finding.status is Status.RED:
        raise SettingsError(f"{finding.found}. {finding.remedy}.")
    if forgetting and (since or until):
        raise SettingsError("--forget is about every hour: Dagster cannot forget some of them. Leave the range out.")
    window = _choose_window(settings, now(), since, until)
    naming = Naming(settings.service_name)
    console.print(f"Hours of the lake{naming.words}, {window}:")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        plan = make_plan(settings, instance, window, now(), forgetting=forgetting)
        _show(console, plan)
        if dry_run:
            console.print("Nothing was told: this was a dry run.")
            return
        if forgetting:
            forget(instance, [naming.key(table) for table in settings.tables])
            console.print("Dagster has forgotten what it knew of hours.")
        if plan.told:
            with Progress(console=console) as progress:
                task = progress.add_task("Telling Dagster", total=len(plan.told))
                for done in tell(instance, plan.adoptions):
                    progress.update(task, completed=done)
        console.print(f"Dagster was told of {len(plan.told):,} hour{'' if len(plan.told) == 1 else 's'}.")


def make_plan(
    settings: Settings, instance: dg.DagsterInstance, window: Window, now: datetime, *, forgetting: bool = False
) -> Plan:
    """Make the plan from Dagster, the lake and the service, without changing anything.

    Args:
        settings: settings that name the service and the lake.
        instance: Dagster instance to read.
        window: hours to consider.
        now: current time, with a time zone.
        forgetting: whether to plan as if Dagster had no materialised hours on record.

    Raises:
        LakeError: there is no lake, or the lake belongs to another service, or a run is writing the lake.
        ServiceError: the service cannot be asked.
    """
    lake = build_lake(settings)
    kept = settings.tables
    names = [table.name for table in kept]
    keys = {name: Naming(settings.service_name).key(name) for name in names}
    known = {name: set[datetime]() if forgetting else find_known(instance, key) for name, key in keys.items()}
    busy = find_busy(instance, list(keys.values()), now)
    if forgetting and busy:
        raise CommitConflictError(
            f"{len(busy):,} hours are in runs that wait or run, and what these store would be forgotten. Wait until "
            "they have ended, or cancel them, and stop the daemon meanwhile."
        )
    hours = {hour.start for hour in window.hours()}
    done = set.intersection(*known.values()) & hours
    tables = {table.name: lake.open(table) for table in kept}
    feed = tables[CHANGE_FEED.name]
    if feed is None:
        if forgetting:
            return Plan(window, behind=frozenset(hours))
        raise LakeLostError(
            f"There is no table at {lake.uri(CHANGE_FEED)}, so there is nothing to tell Dagster of. Check "
            "DICOM_STORAGE_URL, DICOM_CONTAINER_NAME and DICOM_CHANGE_FEED_TABLE_PATH. If the lake is gone for good, "
            "--forget has Dagster begin anew."
        )
    asked = hours - done - busy
    stored = count_stored(feed, window)
    complete = _find_complete(settings, stored, asked)
    held, disagreeing = _hold_back(lake, kept, feed, tables, complete) if complete else ({}, {})
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
    _require_unmoved(lake, kept, tables)
    torn = frozenset(set[datetime]().union(*(held[name] - known[name] for name in held)))
    return Plan(
        window, adoptions, frozenset(done), frozenset(busy & hours), frozenset(asked - complete), torn, disagreeing
    )


def _find_complete(settings: Settings, stored: Mapping[datetime, Stored], asked: set[datetime]) -> set[datetime]:
    """Return the hours of which the lake has as many entries as the service."""
    with open_client(settings) as service:
        return {
            hour.start
            for span in build_spans(asked, lambda _: len(asked))
            for hour in find_complete(service, stored, span.window)
        }


def _hold_back(
    lake: Lake, kept: Sequence[Table], feed: Snapshot, tables: dict[str, Snapshot | None], complete: set[datetime]
) -> tuple[dict[str, set[datetime]], dict[str, int]]:
    """Find the complete hours that must not be reported, because tables disagree.

    Returns:
        The hours by table, and the number of disagreeing studies by table that disagrees or is missing.

    Raises:
        LakeError: `change_feed` has several rows of one entry, so its rows prove nothing.
    """
    disagreeing = find_disagreeing(lake, kept)
    if len(disagreeing.pop(CHANGE_FEED.name)):
        raise LakeError(
            "change_feed has several rows of the same entry: something else than this project wrote it. Restore it to "
            "the version before (see docs/operations.md), then run this again. Dagster was told nothing."
        )
    held: dict[str, set[datetime]] = {CHANGE_FEED.name: set()}
    for name, studies in disagreeing.items():
        of_table = complete if tables[name] is None else find_hours(feed, studies) & complete
        is_made_from_feed = name in (INSTANCE.name, HEALTHCARE_INSTANCE.name)
        held[name] = of_table if is_made_from_feed else of_table | held[INSTANCE.name]
    return held, {name: len(studies) for name, studies in disagreeing.items() if len(studies) or tables[name] is None}


def _require_unmoved(lake: Lake, kept: Sequence[Table], tables: dict[str, Snapshot | None]) -> None:
    for table in kept:
        snapshot = tables[table.name]
        if not lake.has_version(table, None if snapshot is None else snapshot.version):
            raise CommitConflictError(
                f"{table.name} was written while it was looked at, so that nothing is proved. Wait until runs have "
                "ended, or stop the daemon, and run this again. Dagster was told nothing."
            )


def _choose_window(settings: Settings, now: datetime, since: datetime | None, until: datetime | None) -> Window:
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


def _show(console: Console, plan: Plan) -> None:
    grid = Grid("hours", "which", "what becomes of them")
    rows = [
        (plan.known, "known to Dagster: left as they are"),
        (plan.told - plan.torn, "in the lake, as many entries as the service has: Dagster is told"),
        (plan.torn, f"tables do not agree ({', '.join(plan.disagreeing)}): left to be read"),
        (plan.behind, "not in the lake, or the service has more entries: left to be read"),
        (plan.busy, "in runs that wait or run: left to these"),
    ]
    for hours, what in rows:
        if hours:
            grid.add_row(f"{len(hours):,}", _describe(hours), what)
    console.print(grid)
    for name, studies in plan.disagreeing.items():
        console.print(
            f"{name} does not agree with what it is made from in {studies:,} studies. Their hours are read again by "
            "the sensors; if the nightly audit_lake still finds them, see docs/operations.md."
        )


def _describe(hours: Iterable[datetime]) -> str:
    spans: list[Span] = build_spans(hours, lambda _: 10**9)
    shown = [str(span.window) for span in spans[:_SPANS_SHOWN]]
    more = len(spans) - len(shown)
    return "\n".join([*shown, *([f"and {more:,} more ranges"] if more else [])])
