"""Upkeep of a table: small files joined, old files deleted, the log kept as long as the files and no longer.

What earlier versions or other engines left in a form that a reader cannot take is put right too, a function for each
kind: it finds files to be written anew, and finds none once that is done.

Safe beside any number of writers, and killed at any moment. Joining is a commit like a writer's: it succeeds the
version that it was planned on, or does not happen. What is deleted is older than the retention, whether it was taken
out of the table then or never was in it: a file that a run is about to commit is younger. Which files these are,
Delta's own library says (a full vacuum). It is not left to delete them, since it would take whatever lies in the
folder, another table below it too; here go files of this table, and nothing else.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from dicom_assets.adapters.delta import Lake, wait_for_others
from dicom_assets.adapters.features import is_log_protected
from dicom_assets.adapters.foreign import check_can_be_written
from dicom_assets.adapters.parquet import BYTES_PER_FILE, JOINED_BYTES, ROWS_PER_FILE, DataFile, StoredFile
from dicom_assets.adapters.snapshot import Logged, Snapshot
from dicom_assets.adapters.spark_calendar import find_refused
from dicom_assets.core.errors import LakeRefusedError
from dicom_assets.core.schema import Table

T = TypeVar("T")
logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Commits that may be lost to writers before the rest is left to the next time."""
SMALL = 4
"""A file is small below this part of what a file may hold: joining larger ones would move many rows for one file."""
GROUPS_PER_COMMIT = 16
"""Files that come of one commit, at most: what is lost with it when a writer is quicker."""
BYTES_PER_COMMIT = GROUPS_PER_COMMIT * JOINED_BYTES
"""Size on disk of what a commit replaces, at most, or a single group: files that others compacted may be large."""

CLOCK_HOURS = 1
"""That this machine's clock and storage's may differ."""

_CLOCK = "_clock"
"""A file beside the table's own, there for a moment: storage tells when it was written."""
_LOG = "_delta_log"
_LOG_FILE = re.compile(r"(\d{20})\.(json|checkpoint)(\.[\w.-]*parquet)?")


@dataclass(frozen=True)
class Inventory:
    """What there is of a table."""

    version: int
    live_files: int
    live_bytes: int
    stored_files: int
    """Data files in its folder: the live ones, those of older versions, and leftovers of runs that were killed."""
    stored_bytes: int
    log_files: int
    """Commits and checkpoints."""


@dataclass(frozen=True)
class Upkeep:
    """What was done to a table, or in a dry run what would be."""

    before: Inventory
    after: Inventory
    """In a dry run what is expected: new files have no size, and commits are not counted, before they are made."""
    joined_files: int
    """Small files that were joined."""
    joined_into: int
    removed_files: int
    """Data files that were deleted."""
    removed_bytes: int
    removed_log_files: int
    oldest_version: int
    """The oldest that can still be read, all of its rows."""
    oldest_since: datetime
    """When that was committed."""
    is_complete: bool = True
    """Whether all was done; else writers were quicker, and the next upkeep does the rest."""
    files_marked_for_spark: int = 0
    """Files that Spark 3.5 refused for their dates, and that were written anew with the key of their calendar."""


def maintain(lake: Lake, table: Table, *, dry_run: bool = False) -> Upkeep | None:
    """What the upkeep of a table did; None where the table does not exist yet.

    Memory holds the rows of one file at a time, however large the table is.

    Args:
        lake: says how long old versions stay.
        table: one of its tables.
        dry_run: whether to tell only what would be done.

    Raises:
        ForeignTableError: what lies there is no table of ours, or asks of its writers what is not done here; nothing
            was done to it.
        LakeUnavailableError: storage refuses; or it has another time than this machine.
    """
    snapshot = lake.open(table)
    if snapshot is None:
        return None
    check_can_be_written(table, snapshot.logged, lake.uri(table))
    if not dry_run:
        _check_clock(snapshot, lake.uri(table))
    before, log_before = _take_stock(snapshot), _read_log(snapshot).names
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
    log = _read_log(snapshot)
    is_protected = is_log_protected(snapshot.logged.protocol)
    expired = set() if is_protected else log.expired(horizon)
    if not dry_run:
        snapshot.folder.delete([file.name for file in old])
        snapshot.folder.delete_torn(torn)
        if not is_protected:
            _clean_log(lake, table)
        snapshot = lake.open_or_create(table)
        log = _read_log(snapshot)
        expired = log_before - log.names
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
        oldest, log.versions("json")[oldest], joined.is_complete, marked.files,
    )  # fmt: skip


def _check_clock(snapshot: Snapshot, uri: str) -> None:
    """Passes where this machine and storage agree on the time: ages are of storage's clock, and are taken by this one.

    By one that is days ahead, what a run is about to commit would be a leftover.
    """
    snapshot.folder.write_aside(_CLOCK, b"")
    stamp = snapshot.folder.stamp(_CLOCK)
    snapshot.folder.delete([_CLOCK])
    if stamp is None:  # another upkeep, which has just looked, took it away
        return
    hours = (time.time() - stamp[1].timestamp()) / 3600
    if abs(hours) > CLOCK_HOURS:
        raise LakeRefusedError(
            f"The upkeep of {uri} did nothing: this machine's clock is {abs(hours):,.0f} hours "
            f"{'ahead of' if hours > 0 else 'behind'} that of storage, so it cannot be told which files are old enough "
            "to be deleted. Let NTP keep the clock, then run this again."
        )


def choose_files(snapshot: Snapshot) -> list[list[DataFile]]:
    """Small files to be joined, each group into one file.

    Those of a day that follow one another go together, and what deletes left of larger ones. Runs join small files too,
    where there are many; this gets the rest.
    """
    groups: list[list[DataFile]] = [[]]
    filled = (0.0, 0.0, 0.0)
    for file in sorted(snapshot.files, key=_place):
        if file.rows * SMALL > ROWS_PER_FILE or file.size_bytes * SMALL > JOINED_BYTES:
            continue
        rows, size_bytes = snapshot.folder.weigh(file)
        share = (rows / ROWS_PER_FILE, file.size_bytes / JOINED_BYTES, size_bytes / BYTES_PER_FILE)
        filled = (filled[0] + share[0], filled[1] + share[1], filled[2] + share[2])
        if max(filled) > 1:
            groups.append([])
            filled = share
        groups[-1].append(file)
    return [group for group in groups if len(group) > 1]


def _place(file: DataFile) -> tuple[bool, object]:
    """Files of `change_feed` stay in the order of their hours, by which they are found; others in that of writing."""
    hour, _ = file.ranges.get("windowStart", (None, None))
    return (hour is None, hour or file.written_at)


@dataclass
class _Replaced:
    files: int = 0
    into: int = 0
    """Groups of them: each became a file, or as many as its rows fill."""
    is_complete: bool = True


def _replace(lake: Lake, table: Table, groups: list[list[DataFile]]) -> _Replaced:
    """Write each group of files anew, as one, and change no row.

    A commit that is lost to a writer's is tried again, without the files that this one replaced.
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
    """Return how many of the groups, from the first on, one commit replaces."""
    sizes = accumulate(sum(file.size_bytes for file in group) for group in groups[:GROUPS_PER_COMMIT])
    return max(1, sum(size <= BYTES_PER_COMMIT for size in sizes))


def _keep_retention(lake: Lake, table: Table) -> bool:
    try:
        lake.keep_retention(lake.open_or_create(table))
    except CommitFailedError:
        return False
    return True


def _checkpoint(lake: Lake, table: Table) -> None:
    """Lets whoever opens the table next begin at this version."""
    snapshot = lake.open_or_create(table)
    if not snapshot.folder.has(f"{_LOG}/{snapshot.version:020}.checkpoint.parquet"):
        _beside_others(lake, table, "write a checkpoint of", DeltaTable.create_checkpoint)


def _clean_log(lake: Lake, table: Table) -> None:
    """Deletes old entries of the log."""
    _beside_others(lake, table, "clean the log of", DeltaTable.cleanup_metadata)


def _old_files(lake: Lake, table: Table) -> list[StoredFile]:
    """The table's data files that are in no version of the retention, and in nobody's hands."""

    def list_files(delta: DeltaTable) -> list[str]:
        return delta.vacuum(lake.retention_hours, dry_run=True, enforce_retention_duration=False, full=True)

    names = set(_beside_others(lake, table, "list", list_files))
    return [file for file in _data_files(lake.open_or_create(table)) if file.name in names]


def _beside_others(lake: Lake, table: Table, doing: str, ask: Callable[[DeltaTable], T]) -> T:
    """What the log says or lets be done, though somebody else deletes old entries of it at the same time."""
    attempt = 1
    while True:
        newest = lake.open_or_create(table)
        snapshot = lake.open(table, newest.version) or newest  # the log as it is now, not as it was when it was kept
        with snapshot.folder.explained(doing):
            try:
                return ask(snapshot.delta)
            except (DeltaError, OSError) as error:
                if "not found" not in str(error).lower() or attempt == ATTEMPTS:
                    raise
        wait_for_others(attempt)
        attempt += 1


def _data_files(snapshot: Snapshot) -> list[StoredFile]:
    """What lies in the table's own folder and is data; the names that it hides begin with an underscore or a dot.

    Of a table that several services share, what is this one's.
    """
    return [
        file
        for file in snapshot.folder.stored()
        if file.name.endswith(".parquet") and not file.name.rpartition("/")[2].startswith(("_", "."))
    ]


@dataclass(frozen=True)
class _Log:
    """The files of a table's log."""

    modified: dict[str, datetime]
    """When each commit and checkpoint was written, by its name."""

    @property
    def names(self) -> set[str]:
        return set(self.modified)

    def versions(self, kind: str) -> dict[int, datetime]:
        """When each was committed (`json`), or got its `checkpoint`."""
        found = ((_LOG_FILE.fullmatch(name), time) for name, time in self.modified.items())
        return {int(match[1]): time for match, time in found if match and match[2] == kind}

    def current_at(self, horizon: datetime) -> int:
        """The version that was current then, or the first after it that the log can still tell."""
        commits, checkpoints = self.versions("json"), self.versions("checkpoint")
        told = [version for version in commits if version >= min({0} & commits.keys() or checkpoints)]
        return max((version for version in told if commits[version] <= horizon), default=min(told))

    def expired(self, horizon: datetime) -> set[str]:
        """What is older than the checkpoint that the version current at the horizon is read from."""
        old = [version for version, time in self.versions("checkpoint").items() if time <= horizon]
        return {
            name for name, time in self.modified.items() if time <= horizon and int(name[:20]) < max(old, default=0)
        }


def _read_log(snapshot: Snapshot) -> _Log:
    files = {file.name.removeprefix(f"{_LOG}/"): file.modified for file in snapshot.folder.stored(_LOG)}
    return _Log({name: time for name, time in files.items() if _LOG_FILE.fullmatch(name)})


def _take_stock(snapshot: Snapshot) -> Inventory:
    stored = _data_files(snapshot)
    return Inventory(
        snapshot.version, len(snapshot.files), snapshot.size_bytes,
        len(stored), sum(file.size_bytes for file in stored), len(_read_log(snapshot).modified),
    )  # fmt: skip


def _oldest_version(snapshot: Snapshot, log: _Log, horizon: datetime, gone: set[str]) -> int:
    """The oldest version that can be read: the log tells of it, and all of its files are there.

    Args:
        snapshot: the newest, for this alone: what delta-rs sees of it moves back.
        log: the table's.
        horizon: what was current then ought to be there.
        gone: files that are to be deleted.
    """
    stored = {file.name for file in _data_files(snapshot)} - gone
    for version in range(log.current_at(horizon), snapshot.version):
        with snapshot.folder.explained("open an older version of"):
            snapshot.delta.load_as_version(version)
        if stored.issuperset(Logged.of(snapshot.delta, snapshot.service).names):
            return version
    return snapshot.version
