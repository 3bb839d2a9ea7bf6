"""Older versions of a table, by number or by time, as far as the table's log goes back.

A version's time is the time at which storage stored its commit, as for other readers of Delta tables.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime

from dicom_assets.core.errors import VersionGoneError
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.parquet import Files
from dicom_assets.lake.table.snapshot import Snapshot

_LOG = "_delta_log/"
_ENTRY = re.compile(r"_delta_log/(\d{20})\.(json|checkpoint\..*)")


@dataclass(frozen=True)
class Log:
    """Existing files of a table's log."""

    commits: dict[int, datetime]
    """Time of storing by version, ascending, for the existing commits."""
    checkpoints: frozenset[int]
    """Versions that have a checkpoint."""

    def version_at(self, time: datetime) -> int | None:
        """Return the version that was the newest at a time; None for a time before all commits of the log."""
        latest: list[datetime] = []
        for moment in self.commits.values():  # clocks may go back, versions never do
            latest.append(max(moment, latest[-1]) if latest else moment)
        place = bisect_right(latest, time)
        return list(self.commits)[place - 1] if place else None

    def is_readable(self, version: int) -> bool:
        """Return whether the version can still be read: from a checkpoint, or from version 0, by all later commits."""
        while version in self.commits:
            if version in self.checkpoints or version == 0:
                return True
            version -= 1
        return version in self.checkpoints

    def first_readable(self, least: int = 0) -> int:
        """Return the first readable version that is not below `least`; the last version if there is none."""
        versions = sorted({*self.commits, *self.checkpoints})
        return next((version for version in versions if version >= least and self.is_readable(version)), versions[-1])


def read_log(folder: Files) -> Log:
    """Return the log of a table, read from the names of its files."""
    entries = sorted(
        (int(match[1]), match[2], stored_at)
        for name, stored_at in folder.list_names(_LOG)
        if (match := _ENTRY.fullmatch(name))
    )
    commits = {version: stored_at for version, kind, stored_at in entries if kind == "json"}
    return Log(commits, frozenset(version for version, kind, _ in entries if kind != "json"))


def open_at(lake: Lake, newest: Snapshot, at: int | datetime | None) -> Snapshot | None:
    """Open a version of a table; return None for a time before the table was created.

    Args:
        lake: lake of the table.
        newest: newest version of the table.
        at: a version, or a time at which the version was the newest; None for the newest version.

    Raises:
        VersionGoneError: the version does not exist yet, or cannot be read any more.
        LakeUnavailableError: storage refuses.
    """
    if at is None or at == newest.version:
        return newest
    log, version = read_log(newest.folder), at
    name = newest.table.name
    if isinstance(version, datetime):
        found = log.version_at(version)
        if found is None:
            if 0 in log.commits:
                return None
            raise VersionGoneError(
                f"The log of {name} does not go back to {version.isoformat()}: it begins with version "
                f"{min(log.commits)}. Old entries are cleaned away after DICOM_RETENTION_HOURS."
            )
        version = found
    if version > newest.version:
        raise VersionGoneError(
            f"There is no version {version} of {name} yet: the newest is {newest.version}. If the table was created "
            "anew, its versions began at 0 again."
        )
    if version < 0 or not log.is_readable(version):
        raise VersionGoneError(
            f"Version {version} of {name} cannot be read any more: its log was cleaned after DICOM_RETENTION_HOURS. "
            f"The first one that can is {log.first_readable()}."
        )
    return newest if version == newest.version else lake.open(newest.table, version)
