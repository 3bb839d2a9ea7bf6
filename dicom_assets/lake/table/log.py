"""Files of a table's log: their names, the versions that can be read from them, and their age.

A version's time is the time at which storage stored its commit, as for other readers of Delta tables.
"""

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import unquote

from dicom_assets.lake.files.folder import Files

FOLDER = "_delta_log"
"""Folder of the log, relative to the table's folder."""
_FILE = re.compile(r"(\d{20})\.(json|checkpoint)(?:\.[\w.-]*(?:parquet|json))?")


def commit_name(version: int) -> str:
    """Return the path of a version's commit, relative to the table's folder."""
    return f"{FOLDER}/{version:020}.json"


def checkpoint_name(version: int) -> str:
    """Return the path of a version's checkpoint, relative to the table's folder."""
    return f"{FOLDER}/{version:020}.checkpoint.parquet"


@dataclass(frozen=True)
class Log:
    """Existing files of a table's log."""

    files: dict[str, datetime]
    """Time of storing of each commit and checkpoint, by file name."""

    @cached_property
    def commits(self) -> dict[int, datetime]:
        """Time of storing by version, ascending, for the existing commits."""
        return self._by_version("json")

    @cached_property
    def checkpoints(self) -> dict[int, datetime]:
        """Time of storing by version, ascending, for the existing checkpoints."""
        return self._by_version("checkpoint")

    def _by_version(self, kind: str) -> dict[int, datetime]:
        found = ((_FILE.fullmatch(name), time) for name, time in sorted(self.files.items()))
        return {int(match[1]): time for match, time in found if match and match[2] == kind}

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

    def oldest_kept(self, horizon: datetime) -> int:
        """Return the version that was the newest at the horizon, or the first later one that the log still has."""
        first = min({0} & self.commits.keys() or self.checkpoints)
        kept = [version for version in self.commits if version >= first]
        return max((version for version in kept if self.commits[version] <= horizon), default=min(kept))

    def expired(self, horizon: datetime) -> set[str]:
        """Return the names of files older than the checkpoint from which the version at the horizon is read."""
        first = max((version for version, time in self.checkpoints.items() if time <= horizon), default=0)
        return {name for name, time in self.files.items() if time <= horizon and int(name[:20]) < first}


def read_log(folder: Files) -> Log:
    """Return the log of a table, from a listing of its folder."""
    files = {file.name.rpartition("/")[2]: file.modified for file in folder.stored(FOLDER)}
    return Log({name: time for name, time in files.items() if _FILE.fullmatch(name)})


def read_removals(folder: Files, version: int) -> list[str] | None:
    """Return the names of the files that a version removed from the table; None if the log has no such commit."""
    content = folder.read_aside(commit_name(version))
    if content is None:
        return None
    actions = [json.loads(line) for line in content.splitlines() if line.strip()]
    return [unquote(action["remove"]["path"]) for action in actions if "remove" in action]
