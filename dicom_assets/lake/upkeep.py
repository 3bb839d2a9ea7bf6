"""Upkeep of a table: join small files, delete old files, and keep the log as long as the files and no longer.

Upkeep also rewrites files that earlier versions or other engines wrote in a form that some reader refuses. One function
for each such form finds the files; after the rewrite it finds none.

Upkeep is safe beside any number of writers, and may be killed at any moment. Joining files is a commit like a writer's:
it directly follows the version that it was planned on, or fails. Deleted files are older than the retention: they were
removed from the table before that, or were stored before that and never committed. A file that a run is about to commit
is younger. Delta's library lists the files to delete (a full vacuum), but does not delete them: it would delete
everything else in the folder, even another table below. Only files of this table are deleted here.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import LakeRefusedError
from dicom_assets.lake.files.data_file import JOINED_BYTES, DataFile
from dicom_assets.lake.files.folder import StoredFile
from dicom_assets.lake.files.parquet import BYTES_PER_FILE, ROWS_PER_FILE
from dicom_assets.lake.spark_calendar import find_refused
from dicom_assets.lake.table.delta import Lake, wait_for_others
from dicom_assets.lake.table.features import is_log_protected
from dicom_assets.lake.table.foreign import check_can_be_written
from dicom_assets.lake.table.log import Log, checkpoint_name, read_log
from dicom_assets.lake.table.snapshot import Snapshot, list_files, read_names

T = TypeVar("T")
logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Commits that may be lost to writers before the next upkeep has to do the rest."""
SMALL = 4
"""Divisor of a file's size limits: a file below a quarter of them is small. To join larger files would move many rows
for one file less."""
GROUPS_PER_COMMIT = 16
"""Groups of files that one commit joins, at most: a commit lost to a quicker writer wastes the work on all of them."""
BYTES_PER_COMMIT = GROUPS_PER_COMMIT * JOINED_BYTES
"""Size on disk of the files that one commit replaces, at most; a single group may be larger, since files that others
compacted may be large."""

CLOCK_HOURS = 1
"""Difference in hours between the clocks of this machine and of storage, at most."""

_CLOCK = "_clock"
"""Name of a file that is written beside the table's files for a moment, to read storage's time of writing."""


@dataclass(frozen=True)
class Inventory:
    """Counts and sizes of a table's files."""

    version: int
    live_files: int
    live_bytes: int
    stored_files: int
    """Data files in its folder: live files, files of older versions, and leftovers of killed runs."""
    stored_bytes: int
    log_files: int
    """Commits and checkpoints."""


@dataclass(frozen=True)
class Upkeep:
    """Result of a table's upkeep, or of its dry run."""

    before: Inventory
    after: Inventory
    """Inventory after the upkeep. A dry run estimates it, without the sizes of new files and without new commits."""
    joined_files: int
    """Small files that were joined."""
    joined_into: int
    """Groups into which they were joined: about the number of new files."""
    removed_files: int
    """Data files that were deleted."""
    removed_bytes: int
    removed_log_files: int
    oldest_version: int
    """Oldest version of which all rows can still be read."""
    oldest_since: datetime
    """Time of the oldest version's commit."""
    is_complete: bool = True
    """True if everything was done; if not, writers were quicker, and the next upkeep does the rest."""
    files_marked_for_spark: int = 0
    """Files that Spark 3.5 refused for their dates, and that were rewritten with the calendar's key."""


def maintain(lake: Lake, table: Table, *, dry_run: bool = False) -> Upkeep | None:
    """Do the upkeep of a table; return None where the table does not exist yet.

    Memory holds the rows of one file at a time, however large the table is.

    Args:
        lake: lake of the table; it says how long old versions are kept.
        table: one of the lake's tables.
        dry_run: whether only to report what would be done.

    Raises:
        ForeignTableError: the table is not this project's, or requires of its writers what this project does not do;
            nothing was changed.
        LakeUnavailableError: storage refuses, or its clock differs from this machine's.
    """
    snapshot = lake.open(table)
    if snapshot is None:
        return None
    check_can_be_written(snapshot)
    if not dry_run:
        _check_clock(snapshot)
    before, log_before = _take_stock(snapshot), read_log(snapshot.folder).files.keys()
    if dry_run:
        groups = choose_files(snapshot)
        joined = _Replaced(sum(map(len, groups)), len(groups))
        written_anew = {file.name for group in groups for file in group}
        marked = _Replaced(sum(file.name not in written_anew for file in find_refused(snapshot)))
    else:
        joined = _replace(lake, table, choose_files(snapshot))
        marked = _replace(lake, table, [[file] for file in find_refused(lake.open_or_create(table))])
        joined.is_complete &= marked.is_complete & _keep_retention(lake, table)
        _checkpoint(lake, table)
        snapshot = lake.open_or_create(table)
    horizon = datetime.fromtimestamp(time.time(), UTC) - timedelta(hours=lake.retention_hours)
    old = _old_files(lake, table)
    torn = [file for file in snapshot.folder.stored_torn() if file.modified < horizon]
    log = read_log(snapshot.folder)
    is_protected = is_log_protected(snapshot.protocol)
    expired = set() if is_protected else log.expired(horizon)
    if not dry_run:
        snapshot.folder.delete([file.name for file in old])
        snapshot.folder.delete_torn(torn)
        if not is_protected:
            _beside_others(lake, table, "clean the log of", DeltaTable.cleanup_metadata)
        snapshot = lake.open_or_create(table)
        log = read_log(snapshot.folder)
        expired = log_before - log.files.keys()
    removed = [*old, *torn]
    removed_bytes = sum(file.size_bytes for file in removed)
    after = _take_stock(snapshot)
    if dry_run:
        after = replace(
            before,
            live_files=before.live_files - joined.files + joined.into,
            stored_files=before.stored_files - len(old) + joined.into + marked.files,
            stored_bytes=before.stored_bytes - sum(file.size_bytes for file in old),
            log_files=before.log_files - len(expired),
        )
    oldest = _oldest_version(snapshot, log, horizon, gone={file.name for file in old})
    return Upkeep(
        before, after, joined.files, joined.into, len(removed), removed_bytes, len(expired),
        oldest, log.commits[oldest], joined.is_complete, marked.files,
    )  # fmt: skip


def _check_clock(snapshot: Snapshot) -> None:
    """Check that this machine and storage agree on the time.

    Storage's clock dates the files, and this machine's clock computes their age. If the latter were days ahead, a file
    that a run is about to commit would look like a leftover.

    Raises:
        LakeRefusedError: the clocks differ by more than CLOCK_HOURS.
    """
    snapshot.folder.write_aside(_CLOCK, b"")
    stamp = snapshot.folder.stamp(_CLOCK)
    snapshot.folder.delete([_CLOCK])
    if stamp is None:  # another upkeep, which checks the clock too, deleted the file
        return
    hours = (time.time() - stamp[1].timestamp()) / 3600
    if abs(hours) > CLOCK_HOURS:
        raise LakeRefusedError(
            f"The upkeep of {snapshot.uri} did nothing: this machine's clock is {abs(hours):,.0f} hours "
            f"{'ahead of' if hours > 0 else 'behind'} that of storage, so it cannot be told which files are old enough "
            "to be deleted. Let NTP keep the clock, then run this again."
        )


def choose_files(snapshot: Snapshot) -> list[list[DataFile]]:
    """Return groups of small files; each group is to be joined into one file.

    A group has files that follow one another, such as the hours of a day, and the remainders of larger files after
    deletes. Files follow by the hour of their rows, or by their time of writing where the table has no hour. Runs join
    small files too, where there are many; upkeep joins the rest.
    """

    def place(file: DataFile) -> tuple[bool, object]:
        hour, _ = file.ranges.get(snapshot.table.hour or "", (None, None))
        return (hour is None, hour or file.written_at)

    groups: list[list[DataFile]] = [[]]
    filled = (0.0, 0.0, 0.0)
    for file in sorted(snapshot.files, key=place):
        if file.rows * SMALL > ROWS_PER_FILE or file.size_bytes * SMALL > JOINED_BYTES:
            continue
        rows, size_bytes = snapshot.folder.read_row_count_and_bytes(file)
        share = (rows / ROWS_PER_FILE, file.size_bytes / JOINED_BYTES, size_bytes / BYTES_PER_FILE)
        filled = (filled[0] + share[0], filled[1] + share[1], filled[2] + share[2])
        if max(filled) > 1:
            groups.append([])
            filled = share
        groups[-1].append(file)
    return [group for group in groups if len(group) > 1]


@dataclass
class _Replaced:
    files: int = 0
    into: int = 0
    """Groups of replaced files: each became one file, or as many as its rows fill."""
    is_complete: bool = True


def _replace(lake: Lake, table: Table, groups: list[list[DataFile]]) -> _Replaced:
    """Rewrite each group of files as one file, without changing a row.

    A commit that is lost to a writer is retried, without the groups of which that writer replaced a file.
    """
    replaced = _Replaced()
    losses = 0
    while groups and losses < ATTEMPTS:
        taken = _count_for_a_commit(groups)
        snapshot = lake.open_or_create(table)
        live = {file.name for file in snapshot.files}
        chosen = [group for group in groups[:taken] if live.issuperset(file.name for file in group)]
        if chosen and not lake.join(snapshot, chosen):
            losses += 1
            logger.info("A commit to %s lost to a writer's; trying again.", table.name)
            wait_for_others(losses + 1)
            continue
        replaced.files += sum(map(len, chosen))
        replaced.into += len(chosen)
        replaced.is_complete = replaced.is_complete and len(chosen) == taken
        groups = groups[taken:]
    replaced.is_complete = replaced.is_complete and not groups
    return replaced


def _count_for_a_commit(groups: list[list[DataFile]]) -> int:
    """Return the number of groups, from the first on, that one commit replaces."""
    sizes = accumulate(sum(file.size_bytes for file in group) for group in groups[:GROUPS_PER_COMMIT])
    return max(1, sum(size <= BYTES_PER_COMMIT for size in sizes))


def _keep_retention(lake: Lake, table: Table) -> bool:
    try:
        lake.keep_retention(lake.open_or_create(table))
    except CommitFailedError:
        return False
    return True


def _checkpoint(lake: Lake, table: Table) -> None:
    """Write a checkpoint of the newest version, from which later readers open the table."""
    snapshot = lake.open_or_create(table)
    if not snapshot.folder.has(checkpoint_name(snapshot.version)):
        _beside_others(lake, table, "write a checkpoint of", DeltaTable.create_checkpoint)


def _old_files(lake: Lake, table: Table) -> list[StoredFile]:
    """Return the table's data files that no version within the retention has, and that no writer is about to commit."""

    def list_files(delta: DeltaTable) -> list[str]:
        return delta.vacuum(lake.retention_hours, dry_run=True, enforce_retention_duration=False, full=True)

    names = set(_beside_others(lake, table, "list", list_files))
    return [file for file in _data_files(lake.open_or_create(table)) if file.name in names]


def _beside_others(lake: Lake, table: Table, doing: str, ask: Callable[[DeltaTable], T]) -> T:
    """Call delta-rs on the newest version; retry if another process deletes log entries at the same time.

    Args:
        lake: lake of the table.
        table: the table.
        doing: verb phrase of the message if storage refuses.
        ask: calls delta-rs and returns its answer.
    """
    attempt = 1
    while True:
        newest = lake.open_or_create(table)
        snapshot = (
            lake.open(table, newest.version) or newest
        )  # opened again: the cached version's log files may be gone
        with snapshot.folder.explained(doing):
            try:
                return ask(snapshot.connect())
            except (DeltaError, OSError) as error:
                if "not found" not in str(error).lower() or attempt == ATTEMPTS:
                    raise
        wait_for_others(attempt)
        attempt += 1


def _data_files(snapshot: Snapshot) -> list[StoredFile]:
    """Return the data files directly in the table's folder; names that begin with an underscore or a dot are no data.

    Where several services share the table, return the files of this service alone.
    """
    return [
        file
        for file in snapshot.folder.stored()
        if file.name.endswith(".parquet") and not file.name.rpartition("/")[2].startswith(("_", "."))
    ]


def _take_stock(snapshot: Snapshot) -> Inventory:
    stored = _data_files(snapshot)
    return Inventory(
        snapshot.version, len(snapshot.files), snapshot.size_bytes,
        len(stored), sum(file.size_bytes for file in stored), len(read_log(snapshot.folder).files),
    )  # fmt: skip


def _oldest_version(snapshot: Snapshot, log: Log, horizon: datetime, gone: set[str]) -> int:
    """Return the oldest version that can be read: the log has it, and all its files exist.

    Args:
        snapshot: newest version.
        log: log of the table.
        horizon: time from which on all versions should be readable.
        gone: names of files that are to be deleted.
    """
    stored = {file.name for file in _data_files(snapshot)} - gone
    delta = snapshot.connect()
    for version in range(log.oldest_kept(horizon), snapshot.version):
        with snapshot.folder.explained("open an older version of"):
            delta.load_as_version(version)
        if stored.issuperset(read_names(list_files(delta, snapshot.scope))):
            return version
    return snapshot.version
