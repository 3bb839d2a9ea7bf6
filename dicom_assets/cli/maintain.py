"""`dicom-assets maintain`: upkeep of all tables, with the results printed as a table."""

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Listing

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.derive.repair import Repair
from dicom_assets.lake.upkeep import maintain


def maintain_all(console: Console, repair: Repair, *, dry_run: bool, of: str = "") -> int:
    """Maintain one table after another, print the changes, and return the exit code.

    Args:
        console: console for the output.
        repair: repair of the tables' rows, which runs first.
        dry_run: whether to print the changes without making them.
        of: name of the service that owns the tables, for the title; empty if there is only one.

    Returns:
        1 if there was any problem, else 0.
    """
    listing = Listing(
        "table", "files joined", "files removed", "files", "size", "on disk", "log entries", "readable since",
        title=": ".join(filter(None, [of, "Dry run: this would be done" if dry_run else ""])) or None,
        title_justify="left",
    )  # fmt: skip
    lake, notes = repair.lake, []
    problems = _repair(console, repair, dry_run=dry_run)
    for table in repair.tables:
        try:
            done = maintain(lake, table, dry_run=dry_run)
        except DicomAssetsError as error:
            problems.append(f"{table.name}: {error}")
            continue
        if done is None:
            listing.add_row(table.name, "[dim]no table yet[/]")
            continue
        before, after = done.before, done.after
        if not done.is_complete:
            problems.append(f"{table.name}: writers were quicker. Run this again; nothing is half-done.")
        if done.files_marked_for_spark:
            what = "would be" if dry_run else "were"
            notes.append(f"{table.name}: {done.files_marked_for_spark} files {what} written anew for Spark 3.5.")
        listing.add_row(
            table.name,
            f"{done.joined_files} into {done.joined_into}" if done.joined_files else "none",
            f"{done.removed_files} ({decimal(done.removed_bytes)})" if done.removed_files else "none",
            _change(str(before.live_files), str(after.live_files)),
            _change(decimal(before.live_bytes), decimal(after.live_bytes)),
            _change(_stored(before.stored_files, before.stored_bytes), _stored(after.stored_files, after.stored_bytes)),
            _change(str(before.log_files), str(after.log_files)),
            f"{done.oldest_since:%Y-%m-%d %H:%MZ} (version {done.oldest_version})",
        )
    console.print(listing)
    console.print(f"Versions stay for {lake.retention_hours} hours (DICOM_RETENTION_HOURS, 48 at least).")
    if notes:
        console.print("Spark 3.5 (runtime 1.3 of Fabric) refused their dates, which lie before 1582:")
    for note in notes:
        console.print(f"  {note}", soft_wrap=True)
    for problem in problems:
        console.print(f"[red]Error:[/] {problem}", soft_wrap=True)
    return 1 if problems else 0


def _repair(console: Console, repair: Repair, *, dry_run: bool) -> list[str]:
    """Repair rows that earlier versions of the project wrote, print the result, and return the problems."""
    try:
        if dry_run:
            due = ", ".join(table.name for table in repair.find_due())
            changed = ""
        else:
            due, changed = "", ", ".join(f"{rows:,} in {name}" for name, rows in repair.run().items())
    except DicomAssetsError as error:
        return [f"Rows of earlier versions: {error}"]
    if due:
        console.print(f"Rows of earlier versions would be looked for, and repaired, in {due}.")
    if changed:
        console.print(f"Rows of earlier versions were repaired: {changed}.")
    return []


def _change(before: str, after: str) -> str:
    return after if before == after else f"{before} → {after}"


def _stored(files: int, size_bytes: int) -> str:
    return f"{files} ({decimal(size_bytes)})"
