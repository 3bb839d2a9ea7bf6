"""`dicom-assets maintain`: upkeep of all tables, with the results printed as a table."""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dicom_assets.cli.options import DryRun, ServiceName, run_for_each
from dicom_assets.core.errors import DicomAssetsError

if TYPE_CHECKING:
    from rich.console import Console

    from dicom_assets.config.settings import Settings
    from dicom_assets.derive.repair import Repair
    from dicom_assets.lake.upkeep import Inventory, Upkeep


def maintain(*, service: ServiceName = None, dry_run: DryRun = False) -> None:
    """Join small files, repair what earlier versions wrote, and delete what DICOM_RETENTION_HOURS lets go."""
    from rich.console import Console

    from dicom_assets.config.connections import build_repair
    from dicom_assets.config.services import choose_services

    console = Console()

    def maintain_service(settings: "Settings") -> int:
        return maintain_all(console, build_repair(settings), dry_run=dry_run, of=settings.service_name or "")

    sys.exit(run_for_each(choose_services(service), maintain_service))


def maintain_all(console: "Console", repair: "Repair", *, dry_run: bool, of: str = "") -> int:
    """Maintain one table after another, print the changes, and return the exit code.

    Args:
        console: console for the output.
        repair: repair of the tables' rows, which runs first.
        dry_run: whether to print the changes without making them.
        of: name of the service that owns the tables, for the title; empty if there is only one.

    Returns:
        1 if there was any problem, else 0.
    """
    from rich.table import Table

    from dicom_assets.lake.upkeep import maintain as maintain_table

    listing = Table(
        "table", "files joined", "files removed", "files", "size", "on disk", "log entries", "readable since",
        title=": ".join(filter(None, [of, "Dry run: this would be done" if dry_run else ""])) or None,
        title_justify="left",
    )  # fmt: skip
    lake, notes = repair.lake, []
    problems = _repair_rows(console, repair, dry_run=dry_run)
    for table in repair.tables:
        try:
            done = maintain_table(lake, table, dry_run=dry_run)
        except DicomAssetsError as error:
            problems.append(f"{table.name}: {error}")
            continue
        if done is None:
            listing.add_row(table.name, "[dim]no table yet[/]")
            continue
        listing.add_row(table.name, *_describe(done))
        if not done.is_complete:
            problems.append(f"{table.name}: writers were quicker. Run this again; nothing is half-done.")
        if done.files_marked_for_spark:
            what = "would be" if dry_run else "were"
            notes.append(f"{table.name}: {done.files_marked_for_spark} files {what} rewritten for Spark 3.5.")
    console.print(listing)
    console.print(f"Versions stay for {lake.retention_hours} hours (DICOM_RETENTION_HOURS, 48 at least).")
    if notes:
        console.print("Spark 3.5 (runtime 1.3 of Fabric) refused their dates, which lie before 1582:")
    for note in notes:
        console.print(f"  {note}", soft_wrap=True)
    for problem in problems:
        console.print(f"[red]Error:[/] {problem}", soft_wrap=True)
    return 1 if problems else 0


def _repair_rows(console: "Console", repair: "Repair", *, dry_run: bool) -> list[str]:
    """Repair rows that earlier versions of the project wrote, print the result, and return the problems."""
    try:
        if dry_run:
            if due := ", ".join(table.name for table in repair.find_due()):
                console.print(f"Rows of earlier versions would be looked for, and repaired, in {due}.")
        elif changed := ", ".join(f"{rows:,} in {name}" for name, rows in repair.run().items()):
            console.print(f"Rows of earlier versions were repaired: {changed}.")
    except DicomAssetsError as error:
        return [f"Rows of earlier versions: {error}"]
    return []


def _describe(done: "Upkeep") -> Iterator[str]:
    """Yield the cells of a table's row: changes as `before → after`."""
    from rich.filesize import decimal

    def compare(describe: "Callable[[Inventory], str]") -> str:
        before, after = describe(done.before), describe(done.after)
        return after if before == after else f"{before} → {after}"

    yield f"{done.joined_files} into {done.joined_into}" if done.joined_files else "none"
    yield f"{done.removed_files} ({decimal(done.removed_bytes)})" if done.removed_files else "none"
    yield compare(lambda each: str(each.live_files))
    yield compare(lambda each: decimal(each.live_bytes))
    yield compare(lambda each: f"{each.stored_files} ({decimal(each.stored_bytes)})")
    yield compare(lambda each: str(each.log_files))
    yield f"{done.oldest_since:%Y-%m-%d %H:%MZ} (version {done.oldest_version})"
