"""`dicom-assets adopt`: report the hours in the lake to a Dagster instance that does not know them."""

import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_assets.cli.options import DryRun, KeyPrefix, ServiceName, parse_key_prefix, parse_time, run_for_each
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.finding import Status

if TYPE_CHECKING:
    from rich.console import Console

    from dicom_assets.config.settings import Settings
    from dicom_assets.defs.automation.adoption_plan import AdoptionPlan

_WINDOWS_SHOWN = 5
_Hour = Annotated[str | None, typer.Option(help="ISO 8601 time with zone, at a full hour.")]


def adopt(
    *,
    since: _Hour = None,
    until: _Hour = None,
    service: ServiceName = None,
    key_prefix: KeyPrefix = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="First have Dagster forget every hour: the lake was lost or is older.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Report the hours in the lake to a new Dagster instance (DAGSTER_HOME), so that they are not read again."""
    from rich.console import Console

    from dicom_assets.config.services import choose_services

    start, end = _parse_hour(since, "--since"), _parse_hour(until, "--until")
    console = Console()

    def adopt_service(settings: "Settings") -> int:
        run_adopt(
            console,
            settings,
            home=os.environ.get("DAGSTER_HOME"),
            now=lambda: datetime.now(UTC),
            since=start,
            until=end,
            forgetting=forget,
            dry_run=dry_run,
            key_prefix=parse_key_prefix(key_prefix),
        )
        return 0

    try:
        sys.exit(run_for_each(choose_services(service), adopt_service))
    except KeyboardInterrupt:
        typer.echo("Stopped. Run the command again (without --forget) to report the remaining hours.", err=True)
        sys.exit(130)


def run_adopt(
    console: "Console",
    settings: "Settings",
    *,
    home: str | None,
    now: Callable[[], datetime],
    since: datetime | None = None,
    until: datetime | None = None,
    forgetting: bool = False,
    dry_run: bool = False,
    key_prefix: tuple[str, ...] = (),
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
        key_prefix: first parts of the asset keys, before the service's name.

    Raises:
        DicomAssetsError: DAGSTER_HOME cannot be used, or there is no lake, or the lake belongs to another service, or
            a run is writing the lake.
    """
    import dagster as dg
    from rich.progress import Progress

    from dicom_assets.defs.automation.adoption import forget, tell
    from dicom_assets.defs.automation.adoption_plan import choose_window, plan_adoption
    from dicom_assets.defs.naming import Naming
    from dicom_assets.doctor.orchestration import check_home
    from dicom_assets.doctor.surroundings import Surroundings

    finding = check_home(Surroundings(lambda: settings, now, dagster_home=home))
    if finding.status is Status.RED:
        raise SettingsError(f"{finding.found}. {finding.remedy}.")
    if forgetting and (since or until):
        raise SettingsError("--forget is about every hour: Dagster cannot forget some of them. Leave the range out.")
    window = choose_window(settings, now(), since, until)
    naming = Naming.of_service(settings.service_name, key_prefix)
    console.print(f"Hours of the lake{naming.words}, {window}:")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        plan = plan_adoption(settings, instance, window, now(), naming, forgetting=forgetting)
        _show_plan(console, plan)
        if dry_run:
            console.print("Dry run: nothing was reported to Dagster.")
            return
        if forgetting:
            forget(instance, [naming.key(table) for table in settings.tables])
            console.print("Dagster has forgotten all hours.")
        count = len(plan.reported)
        if count:
            with Progress(console=console) as progress:
                task = progress.add_task("Reporting to Dagster", total=count)
                for done in tell(instance, plan.adoptions):
                    progress.update(task, completed=done)
        console.print(f"{count:,} hour{' was' if count == 1 else 's were'} reported to Dagster.")


def _parse_hour(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    moment = parse_time(text, option)
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise typer.BadParameter("hours of the lake are full hours of UTC", param_hint=option)
    return moment


def _show_plan(console: "Console", plan: "AdoptionPlan") -> None:
    from rich.table import Table

    table = Table("hours", "which", "what becomes of them")
    rows = [
        (plan.known, "known to Dagster: left as they are"),
        (plan.reported - plan.torn, "in the lake, as many entries as the service has: reported to Dagster"),
        (plan.torn, f"tables do not agree ({', '.join(plan.disagreeing)}): left to be read"),
        (plan.behind, "not in the lake, or the service has more entries: left to be read"),
        (plan.busy, "in runs that wait or run: left to these"),
    ]
    for hours, outcome in rows:
        if hours:
            table.add_row(f"{len(hours):,}", _describe(hours), outcome)
    console.print(table)
    for name, studies in plan.disagreeing.items():
        console.print(
            f"{name} does not agree with its source table in {studies:,} studies. Their hours are read again by "
            "the sensors; if the nightly audit_lake still finds them, see docs/operations.md."
        )


def _describe(hours: Iterable[datetime]) -> str:
    """Return the first ranges of the hours, one a line."""
    from dicom_assets.defs.automation.run_requests import join_hours

    ranges = [str(window) for window in join_hours(hours, lambda _: 10**9)]
    more = len(ranges) - _WINDOWS_SHOWN
    return "\n".join([*ranges[:_WINDOWS_SHOWN], *([f"and {more:,} more ranges"] if more > 0 else [])])
