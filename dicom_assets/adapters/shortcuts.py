"""Shortcuts of a Fabric lakehouse: what is wanted, what is there, and what it takes to get from one to the other."""

from dataclasses import dataclass
from enum import StrEnum

FABRIC_URL = "https://api.fabric.microsoft.com"
FABRIC_SCOPE = "https://api.fabric.microsoft.com/.default"


@dataclass(frozen=True)
class Target:
    """A folder of Data Lake Storage, and the Fabric connection through which it is read."""

    location: str
    """The account: `https://ACCOUNT.dfs.core.windows.net`."""
    subpath: str
    """Container and folder: `/dicom/instance`."""
    connection_id: str

    @property
    def container(self) -> str:
        """The container."""
        return self.subpath.strip("/").split("/", 1)[0]

    @property
    def place(self) -> str:
        """Account, container and folder, as one text that two targets can be compared by."""
        return f"{self.location.rstrip('/').lower()}/{self.subpath.strip('/')}"


@dataclass(frozen=True)
class Shortcut:
    """A shortcut that is wanted."""

    folder: str
    """Where it lies in the lakehouse: `Tables`, `Tables/SCHEMA` or `Files`."""
    name: str
    target: Target

    @property
    def path(self) -> str:
        """Folder and name."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class Found:
    """What a shortcut of the lakehouse points to."""

    kind: str
    """`AdlsGen2`, `OneLake`, `AmazonS3` …"""
    target: Target | None
    """None where it is of another kind, or is not shown to this identity."""

    def __str__(self) -> str:
        return self.target.place if self.target else f"a target of the kind {self.kind} that cannot be compared"


class Change(StrEnum):
    """What it takes to make the lakehouse have a shortcut; the values say so to a reader."""

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
    """A wanted shortcut, and what is to be done about it."""

    shortcut: Shortcut
    change: Change
    found: Found | None


@dataclass(frozen=True)
class Outcome:
    """A step, and how it went."""

    step: Step
    problem: str | None = None
    """What went wrong, why it probably did, and what to do; None where the lakehouse has the shortcut, or would."""

    def done(self, *, dry_run: bool) -> str:
        """What was done, or would be, in some words."""
        change = self.step.change
        if self.problem is not None:
            return "left alone" if change is Change.REFUSE else "failed"
        return f"would {change}" if dry_run and change is not Change.NOTHING else _DONE[change]


def plan_change(shortcut: Shortcut, found: Found | None, *, replace: bool) -> Change:
    """What it takes to make the shortcut what is wanted.

    Args:
        shortcut: what is wanted.
        found: what is there.
        replace: whether a shortcut that points elsewhere may be changed.
    """
    if found is None:
        return Change.CREATE
    if found.target is None or found.target.place != shortcut.target.place:
        return Change.REPLACE if replace else Change.REFUSE
    if found.target.connection_id.lower() != shortcut.target.connection_id.lower():
        return Change.CONNECT
    return Change.NOTHING
