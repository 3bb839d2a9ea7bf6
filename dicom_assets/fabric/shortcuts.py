"""Shortcuts of a Fabric lakehouse: the wanted ones, the existing ones, and the changes that lead to the wanted ones."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Target:
    """Folder in Data Lake Storage, and the Fabric connection that reads it."""

    location: str
    """Storage account: `https://ACCOUNT.dfs.core.windows.net`."""
    subpath: str
    """Container and folder: `/dicom/instance`."""
    connection_id: str

    @property
    def container(self) -> str:
        """Container of the folder."""
        return self.subpath.strip("/").split("/", 1)[0]

    @property
    def place(self) -> str:
        """Account, container and folder in one text; equal texts mean equal folders."""
        return f"{self.location.rstrip('/').lower()}/{self.subpath.strip('/')}"


@dataclass(frozen=True)
class Shortcut:
    """Shortcut that the lakehouse is to have."""

    folder: str
    """Folder in the lakehouse: `Tables`, `Tables/SCHEMA` or `Files`."""
    name: str
    target: Target

    @property
    def path(self) -> str:
        """Folder and name in one path."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class ExistingTarget:
    """Target of a shortcut that the lakehouse has."""

    kind: str
    """`AdlsGen2`, `OneLake`, `AmazonS3` …"""
    target: Target | None
    """Folder of the target; None where it is of another kind, or is not shown to this identity."""

    def __str__(self) -> str:
        return self.target.place if self.target else f"a target of the kind {self.kind} that cannot be compared"


class ShortcutChange(StrEnum):
    """ShortcutChange that gives the lakehouse a wanted shortcut; the values are words for people."""

    NOTHING = "as wanted"
    CREATE = "create"
    CONNECT = "change its connection"
    REPLACE = "point it here"
    REFUSE = "points elsewhere"


_DONE = {
    ShortcutChange.NOTHING: "as wanted",
    ShortcutChange.CREATE: "created",
    ShortcutChange.CONNECT: "connection changed",
    ShortcutChange.REPLACE: "pointed here",
}


@dataclass(frozen=True)
class Outcome:
    """Wanted shortcut, the change that it needs, and the problem that prevents the change."""

    shortcut: Shortcut
    change: ShortcutChange
    problem: str | None = None
    """Event, probable cause and remedy; None if the lakehouse has the shortcut, or would have it after the change."""

    def describe(self, *, dry_run: bool) -> str:
        """Return the change that was made, or that a dry run would make, in a few words for people."""
        if self.problem is not None:
            return "left alone" if self.change is ShortcutChange.REFUSE else "failed"
        return f"would {self.change}" if dry_run and self.change is not ShortcutChange.NOTHING else _DONE[self.change]


def plan_change(shortcut: Shortcut, found: ExistingTarget | None, *, replace: bool) -> ShortcutChange:
    """Return the change that a wanted shortcut needs.

    Args:
        shortcut: the wanted shortcut.
        found: target of the existing shortcut under its path; None where there is none.
        replace: whether a shortcut that points elsewhere may be changed.
    """
    if found is None:
        return ShortcutChange.CREATE
    if found.target is None or found.target.place != shortcut.target.place:
        return ShortcutChange.REPLACE if replace else ShortcutChange.REFUSE
    if found.target.connection_id.lower() != shortcut.target.connection_id.lower():
        return ShortcutChange.CONNECT
    return ShortcutChange.NOTHING
