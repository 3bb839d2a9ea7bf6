"""Whole processes, measured; and what they were measured on."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "bench" / "results"
LATEST = ROOT / "bench" / ".cache" / "results"
_PACKAGES = ("dagster", "deltalake", "httpx", "msgspec", "pyarrow")


@dataclass(frozen=True)
class Measured:
    """A process from its start to its end."""

    wall_seconds: float
    cpu_seconds: float
    """User and system, those of its children included."""
    peak_mib: float
    """Resident memory of the largest process."""
    said: dict[str, Any] = field(default_factory=dict)
    """The JSON of the last line that it printed."""


class ContenderError(Exception):
    """A process that was to be measured failed."""


def measure(command: Sequence[str], env: Mapping[str, str] | None = None, *, cwd: Path = ROOT) -> Measured:
    """Run a command to its end, in a folder.

    Raises:
        ContenderError: with the end of what it said.
    """
    launcher = [sys.executable, "-I", "-S", str(ROOT / "bench" / "launch.py")]
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, check=False
    )
    *errors, cost = done.stderr.strip().splitlines()
    if done.returncode:
        last_words = "\n".join(errors)[-3000:]
        raise ContenderError(f"{' '.join(command)} failed ({done.returncode}): {last_words}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Measured(**json.loads(cost), said=json.loads(last) if last.startswith("{") else {})


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest, to four digits."""
    return {name: float(f"{of(values):.4g}") for name, of in (("median", median), ("min", min), ("max", max))}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def save(name: str, content: dict[str, Any], *, publish: bool) -> Path:
    """Writes a result, with the machine, the date and the command."""
    folder = PUBLISHED if publish else LATEST
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    about = {
        "command": this_command(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit_of(ROOT),
        "load_at_start": _LOAD,
        "machine": machine(),
    }
    path.write_text(json.dumps({**about, **content}, indent=1) + "\n")
    return path


def this_command() -> str:
    """The command that is running, as it would be typed."""
    return " ".join(["python -m", f"bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def as_json(measured: Measured) -> dict[str, Any]:
    return asdict(measured)


def commit_of(checkout: Path) -> str:
    """Return the short name of a checkout's commit; empty where it is none."""
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


_LOAD = round(os.getloadavg()[0], 2)
