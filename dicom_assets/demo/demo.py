"""`dicom-assets demo`: Dagster stores a day of the embedded service in Delta tables, and the demo queries them."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
from deltalake import QueryBuilder
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.table import Table as Grid
from rich.text import Text

from dicom_assets.config.connections import build_lake
from dicom_assets.config.project import is_checkout, name_command
from dicom_assets.config.settings import Settings, load_settings
from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, TABLES
from dicom_assets.core.errors import DicomAssetsError, LakeLostError
from dicom_assets.definitions import build_definitions
from dicom_assets.defs.assets.io_manager import numbers_of_run
from dicom_assets.defs.automation.adoption import forget
from dicom_assets.defs.checks.same_lake import require_same_lake
from dicom_assets.defs.naming import PLAIN
from dicom_assets.defs.partitions import PARTITION_FORMAT
from dicom_assets.demo.embedded import Day, fill, open_service, point_at, prepare_home, refuse_foreign_tables
from dicom_assets.demo.late_changes import Studies, change_studies, show_studies
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake

HOURS_PER_RUN = 4
"""Hours of one run, so that the progress bar moves; one run of all hours would be slightly faster."""
MODALITIES = "SELECT modality, count(*) AS instances FROM instance GROUP BY modality ORDER BY instances DESC, modality"
FILES = "SELECT sopInstanceUid, filePath FROM instance WHERE modality = 'CT' AND rows = 512 LIMIT 5"

_FEW = 10
"""Rate per second below which it is shown with a decimal."""
_TO_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class DemoError(DicomAssetsError):
    """The demo cannot go on."""


@dataclass
class Totals:
    """Sums over the runs."""

    entries: int = 0
    """Entries read from the feed."""
    rows: Counter[str] = field(default_factory=Counter)
    """Numbers of inserted, updated and deleted rows over all tables, by change."""

    def add(self, result: dg.ExecuteInProcessResult) -> None:
        """Add the numbers of a run."""
        for table in TABLES:
            materializations = result.asset_materializations_for_node(table.name)
            numbers = numbers_of_run(materializations[-1].metadata)
            for change in ("inserted", "updated", "deleted"):
                self.rows[change] += numbers[f"rows_{change}"]
            if table.name == CHANGE_FEED.name:
                self.entries += numbers["entries"]


def run_demo(console: Console, *, folder: Path, home: Path, day: Day, env: Mapping[str, str]) -> None:
    """Store the day in the tables, show the tables, and print what changed and what to do next.

    Args:
        console: Console for the output.
        folder: Folder of the embedded service's state.
        home: Folder of Dagster's history.
        day: Content of an empty service.
        env: Environment; DICOM_STORAGE_URL and related variables set the tables' location.

    Raises:
        DicomAssetsError: A setting, the service's state or the tables prevent the demo.
    """
    started = time.monotonic()
    with open_service(folder) as service, serve(service) as url:
        settings = load_settings(point_at(url, folder, day.start, day.end, env))
        lake = build_lake(settings)
        refuse_foreign_tables(service, lake, settings)
        before = _read_versions(lake)
        with _show_progress(console) as progress:
            _fill(service, day, progress)
            totals, changed = _materialize(settings, service, day, prepare_home(home), progress)
        counts = service.change_count(), service.instance_count()
    _show_tables(console, lake)
    for sql in (MODALITIES, FILES):
        _show_answer(console, lake, sql)
    show_studies(console, lake, day, changed)
    unchanged = before == _read_versions(lake)
    _show_summary(console, totals, counts, unchanged=unchanged, seconds=time.monotonic() - started)
    own = "README.md shows how to read" if is_checkout() else "[green]dicom-assets init DIR[/] writes a project for"
    console.print(
        f"[bold]Next:[/] [green]{name_command('dev')}[/] runs a service that keeps changing, and shows in Dagster's UI "
        f"how its tables follow; {own} a service of your own."
    )


class Pace(ProgressColumn):
    """Progress column with the rate and the time left or, at the end, the time taken."""

    def render(self, task: Task) -> Text:
        """Return the column's text; empty while the rate is not known."""
        if task.finished:
            return Text(f"in {_format_duration(task.finished_time)}")
        if not task.speed:
            return Text()
        return Text(f"{task.speed:,.{int(task.speed < _FEW)}f}/s, {_format_duration(task.time_remaining)} left")


def _format_duration(seconds: float | None) -> timedelta:
    return timedelta(seconds=round(seconds or 0))


@contextmanager
def _show_progress(console: Console) -> Iterator[Progress]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}", justify="right"),
        Pace(Column(no_wrap=True, min_width=len("12,345/s, 0:00:00 left"))),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield progress


def _fill(service: Service, day: Day, progress: Progress) -> None:
    if service.change_count():
        progress.console.print("The embedded DICOM service has its day already.")
        fill(service, day)
        return
    task = progress.add_task("Filling the DICOM service", total=None, count="changes")

    def report(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total, count=f"{done:,} of {total:,} changes")

    fill(service, day, report)


def _materialize(
    settings: Settings, service: Service, day: Day, home: Path, progress: Progress
) -> tuple[Totals, Studies]:
    """Materialise all assets for all hours of the day, some hours a run, in the history that the UI reads.

    Returns:
        The sums over the runs, and the studies that the service changed before the last run, as they were.
    """
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    task = progress.add_task("Filling the Delta tables", total=day.hours, count="hours")
    totals, changed = Totals(), Studies()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        _free_slots(instance)
        _forget_other_tables(instance, settings)
        for first in range(0, day.hours, HOURS_PER_RUN):
            last = min(first + HOURS_PER_RUN, day.hours) - 1
            start = day.start + timedelta(hours=first)
            if first and last == day.hours - 1:
                earlier = start - timedelta(hours=HOURS_PER_RUN)
                changed = change_studies(service, build_lake(settings), day, earlier)
                start = earlier if changed else start
            keys = [f"{hour:{PARTITION_FORMAT}}" for hour in (start, day.start + timedelta(hours=last))]
            tags = dict(zip(_TO_RANGE, keys, strict=True))
            try:
                result = job.execute_in_process(run_config=_QUIET, instance=instance, tags=tags)
            except dg.DagsterExecutionInterruptedError:
                raise KeyboardInterrupt from None
            except dg.Failure as failure:
                if isinstance(error := failure.__cause__, DicomAssetsError):
                    raise error from error.__cause__
                raise
            totals.add(result)
            _require_checks(result)
            progress.update(task, completed=last + 1, count=f"{last + 1} of {day.hours} hours")
    return totals, changed


def _require_checks(result: dg.ExecuteInProcessResult) -> None:
    wrong = [
        f"{check.asset_key.path[-1]}.{check.check_name}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    ]
    if wrong:
        raise DemoError(
            f"The tables disagree with one another: {', '.join(wrong)} failed. That is a fault of this project: "
            "please report it. Run this again to see whether the runs repair it."
        )


def _free_slots(instance: dg.DagsterInstance) -> None:
    """Cancel unfinished runs of a killed process; they hold the pool's slots, so the demo would wait for ever.

    None of these runs is alive: a process that runs on the embedded service holds its database, and this process holds
    the database now.
    """
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    for run in instance.get_runs(unfinished):
        instance.report_run_canceled(run, "Its process ended before it did.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _forget_other_tables(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Delete the materializations of tables that no longer exist; the demo runs all hours in any case."""
    try:
        require_same_lake(instance, build_lake(settings), settings.tables)
    except LakeLostError:
        forget(instance, [PLAIN.key(table) for table in settings.tables])


def _read_versions(lake: Lake) -> list[int | None]:
    return [lake.version(table) for table in TABLES]


def _show_tables(console: Console, lake: Lake) -> None:
    grid = Grid(title="Delta tables", title_justify="left", title_style="bold")
    grid.add_column("table", style="cyan", no_wrap=True)
    for name in ("rows", "version", "size"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("where", overflow="fold")
    for table in TABLES:
        snapshot = lake.open_or_create(table)
        size = f"{snapshot.size_bytes / 1024:,.0f} KB"
        grid.add_row(table.name, f"{snapshot.row_count:,}", str(snapshot.version), size, _shorten(lake.uri(table)))
    console.print()
    console.print(grid)


def _shorten(uri: str) -> str:
    """Return a path below the working directory relative to it, and any other URI unchanged."""
    here = Path.cwd()
    return f"./{Path(uri).relative_to(here)}" if "://" not in uri and Path(uri).is_relative_to(here) else uri


def _show_answer(console: Console, lake: Lake, sql: str) -> None:
    delta = lake.open_or_create(INSTANCE).connect()
    answer = pa.table(QueryBuilder().register("instance", delta).execute(sql))
    rows = [["null" if value is None else _format_value(value) for value in row.values()] for row in answer.to_pylist()]
    console.print()
    console.print(sql, style="bold", highlight=False, soft_wrap=True)
    grid = Grid()
    for column in answer.schema:
        grid.add_column(column.name, justify="right" if pa.types.is_integer(column.type) else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    if grid.__rich_measure__(console, console.options.update(width=1000)).maximum <= console.width:
        console.print(grid)
        return
    for first, *rest in rows:  # too wide for the screen, and truncated or wrapped UIDs and paths cannot be used
        console.print(first, style="cyan", highlight=False, soft_wrap=True)
        for value in rest:
            console.print(f"  {value}", highlight=False, soft_wrap=True)


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _show_summary(
    console: Console, totals: Totals, counts: tuple[int, int], *, unchanged: bool, seconds: float
) -> None:
    changes, live = counts
    rows = ", ".join(f"{totals.rows[change]:,} {change}" for change in ("inserted", "updated", "deleted"))
    console.print()
    console.print(f"The service holds {live:,} live instances after {changes:,} changes.")
    console.print(f"Read: {totals.entries:,} entries of its feed. Rows: {rows}.")
    console.print(f"The tables agree with one another. All of it took {seconds:.0f} s.")
    if unchanged:
        console.print(
            "[bold green]Nothing changed:[/] the tables hold what the feed says already, and each is still at the "
            "version it had."
        )
    console.print()
