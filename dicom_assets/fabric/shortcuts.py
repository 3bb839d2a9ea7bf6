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
    """Its folder in the lakehouse: `Tables`, `Tables/SCHEMA` or `Files`."""
    name: str
    target: Target

    @property
    def path(self) -> str:
        """Folder and name in one path."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class Found:
    """Target of a shortcut that the lakehouse has."""

    kind: str
    """`AdlsGen2`, `OneLake`, `AmazonS3` …"""
    target: Target | None
    """The target; None where it is of another kind, or is not shown to this identity."""

    def __str__(self) -> str:
        return self.target.place if self.target else f"a target of the kind {self.kind} that cannot be compared"


class Change(StrEnum):
    """Change that gives the lakehouse a wanted shortcut; the values are words for people."""

    NOTHING = "as wanted"
    CREATE = "create"
    CONNECT = "change its connection"
    REPLACE = "point it here"
    REFUSE = "points elsewhere"


_DONE = {
    Change.NOTHING: "as wanted",
    Change.CREATE: "created",
    Change.CONNECT: "connection changed",
    Change.REPLACE: "pointed here",
}


@dataclass(frozen=True)
class Step:
    """Wanted shortcut, and the change that it needs."""

    shortcut: Shortcut
    change: Change
    found: Found | None


@dataclass(frozen=True)
class Outcome:
    """Result of a step."""

    step: Step
    problem: str | None = None
    """What happened, why it probably did, and what to do; None where the lakehouse has the shortcut, or would have it
    after a dry run."""

    def done(self, *, dry_run: bool) -> str:
        """Return what was done, or what a dry run would do, in a few words for people."""
        change = self.step.change
        if self.problem is not None:
            return "left alone" if change is Change.REFUSE else "failed"
        return f"would {change}" if dry_run and change is not Change.NOTHING else _DONE[change]


def plan_change(shortcut: Shortcut, found: Found | None, *, replace: bool) -> Change:
    """Return the change that a wanted shortcut needs.

    Args:
        shortcut: the wanted shortcut.
        found: the existing shortcut under its path; None where there is none.
        replace: whether a shortcut that points elsewhere may be changed.
    """
    if found is None:
        return Change.CREATE
    if found.target is None or found.target.place != shortcut.target.place:
        return Change.REPLACE if replace else Change.REFUSE
    if found.target.connection_id.lower() != shortcut.target.connection_id.lower():
        return Change.CONNECT
    return Change.NOTHING
