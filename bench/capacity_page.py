"""The figures of docs/capacity.md: what the benchmarks measured, and what follows for lakes that nobody has built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.document import grid

SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
PRICE_PER_GB_MONTH = 0.02
"""An assumption, not anybody's price list."""
RETENTION_HOURS = 720
INSTANCES_PER_HOUR = 17_500
"""New ones in an hour of the benchmark's, and in a file of its history."""
_COMMITS_PER_CHECKPOINT = 10
_ASSETS = 5
_HOURS_PER_YEAR = 8_760
_MISSING = "Not measured yet."

Result = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A figure by the rows of the lake, through the points where it was measured."""

    points: tuple[tuple[int, float], ...]

    def at(self, rows: float) -> tuple[float, str]:
        """The figure, and where it comes from.

        Between points it is on the straight line that joins them, beyond the last on that through the last two.
        """
        for measured, value in self.points:
            if abs(measured / rows - 1) < 0.05:
                return value, "measured"
        after = next((place for place, (measured, _) in enumerate(self.points) if measured > rows), len(self.points))
        place = min(max(after, 1), len(self.points) - 1)
        (low, least), (_, _) = self.points[place - 1 : place + 1]
        kind = "extrapolated" if after in {0, len(self.points)} else "interpolated"
        return least + self._slope(place) * (rows - low), kind

    @property
    def slope(self) -> float:
        """Of the last two points, by row; nothing is taken to fall."""
        return self._slope(len(self.points) - 1)

    def _slope(self, place: int) -> float:
        (low, least), (high, greatest) = self.points[place - 1 : place + 1]
        return max(0.0, (greatest - least) / (high - low))

    @property
    def origin(self) -> str:
        return " and ".join(f"{rows:,}" for rows, _ in self.points[-2:])


def build_parts(results: dict[str, Result]) -> dict[str, str]:
    """The generated parts of the page by name."""
    needs: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
        "hours": (hours_part, ("growth",)),
        "engines": (engines_part, ("engines",)),
        "storage": (storage_part, ("capacity",)),
        "history": (history_part, ("year",)),
    }
    return {
        name: build(*(results[need] for need in names)) if all(need in results for need in names) else _MISSING
        for name, (build, names) in needs.items()
    }


def hours_part(growth: Result) -> str:
    """CPU, time and memory of an hour."""
    recent = _lines(growth["cases"], scattered=False)
    scattered = _lines(growth["cases"], scattered=True)
    most = INSTANCES_PER_HOUR * growth["changes"] // 8  # as many files as there are scattered changes: each has its own
    rows = []
    for size in SIZES:
        cells = [
            _cell(*recent["cpu_seconds"].at(size), "{:,.0f} s"),
            _cell(*recent["seconds"].at(size), "{:,.0f} s"),
            _cell(*recent["peak_mib"].at(size), "{:,.0f} MiB"),
        ]
        if scattered:
            seconds, kind = scattered["cpu_seconds"].at(min(size, most))
            if size > most:
                seconds += recent["cpu_seconds"].at(size)[0] - recent["cpu_seconds"].at(most)[0]
            cells.append(_cell(seconds, kind, "{:,.0f} s"))
        rows.append((_short(size), *cells))
    head = ("instances", "CPU", "time", "peak memory", *(("CPU, scattered updates",) if scattered else ()))
    cpu, peak = recent["cpu_seconds"], recent["peak_mib"]
    lines = [
        grid(head, rows),
        "",
        f"Slopes, from `bench.growth` between {cpu.origin} rows: {cpu.slope * 1e6:.2f} CPU s, "
        f"{recent['seconds'].slope * 1e6:.2f} s and {peak.slope * 1e6:.1f} MiB for a million instances more.",
    ]
    if scattered:
        worst = scattered["cpu_seconds"]
        lines[-1] += (
            f" Scattered updates: {worst.slope * 1e6:.1f} CPU s, between {worst.origin} rows; beyond {most:,} rows, "
            "where every such change has a file of its own to rewrite, the slope of the others."
        )
    return "\n".join(lines)


def engines_part(engines: Result) -> str:
    """An hour's CPU by engine."""
    lines = {
        name: _lines([case for case in engines["cases"] if case["engine"] == name], scattered=False)
        for name in ("delta-rs", "spark")
    }
    figures = [
        ("delta-rs: CPU", lines["delta-rs"]["total_cpu_seconds"], "{:,.0f} s"),
        ("Spark: CPU, all of it", lines["spark"]["total_cpu_seconds"], "{:,.0f} s"),
        ("Spark: memory of the run itself", lines["spark"]["peak_mib"], "{:,.0f} MiB"),
    ]
    rows = [(label, *(_cell(*line.at(size), form) for size in SIZES)) for label, line, form in figures]
    both = [line.slope * 1e6 for _, line, _ in figures[:2]]
    return (
        f"{grid(('an hour', *map(_short, SIZES)), rows)}\n\n"
        f"Slopes, from `bench.engines` between {figures[0][1].origin} rows: {both[0]:.2f} and {both[1]:.2f} CPU s for "
        "a million instances more."
    )


def storage_part(capacity: Result) -> str:
    """Files, bytes, log and what they cost."""
    hour, lakes = capacity["hour"], capacity["lakes"]
    before, after, largest = hour["before"], hour["after"], lakes[-1]["after_upkeep"]
    instances = after["instance"]["rows"] - before["instance"]["rows"]
    entries = hour["changes"] / instances
    entry_bytes = (after["change_feed"]["live_bytes"] - before["change_feed"]["live_bytes"]) / hour["changes"]
    tables = _total(largest, "live_bytes") - largest["change_feed"]["live_bytes"]
    table_bytes = tables / largest["instance"]["rows"]
    alone_bytes = hour["metadata"]["alone_bytes"]
    dead_bytes = sum(
        stock[name]["stored_bytes"] * sign - stock[name]["live_bytes"] * sign
        for stock, sign in ((after, 1), (before, -1))
        for name in stock
    )
    commit_bytes = _total(after, "commit_bytes")
    checkpoint_bytes = _total(largest, "checkpoint_bytes") / _total(largest, "files")
    files = Line(tuple((lake["rows"], float(_total(lake["after_upkeep"], "files"))) for lake in lakes))

    def log_bytes(count: float) -> float:
        return RETENTION_HOURS * (commit_bytes + checkpoint_bytes * count / _COMMITS_PER_CHECKPOINT)

    rows = []
    for size in SIZES:
        count, kind = files.at(size)
        log, old = log_bytes(count), RETENTION_HOURS * dead_bytes
        least = size * (table_bytes + entries * entry_bytes) + log + old
        most = size * (table_bytes + entries * alone_bytes) + log + old
        stored = "measured" if kind == "measured" else "extrapolated"
        feed = [f"{size * entries * each / 1e9:,.1f} GB" for each in (entry_bytes, alone_bytes)]
        price = [f"{total / 1e9 * PRICE_PER_GB_MONTH:,.2f}" for total in (least, most)]
        rows.append(
            (
                _short(size),
                _cell(count, kind, "{:,.0f}"),
                _cell(size * table_bytes / 1e9, stored, "{:,.2f} GB"),
                f"{' to '.join(feed)} (extrapolated)",
                _cell(old / 1e9, "extrapolated", "{:,.1f} GB"),
                _cell(log / 1e9, "extrapolated", "{:,.2f} GB"),
                f"{' to '.join(price)} (extrapolated)",
            )
        )
    head = ("instances", "live files", "four tables", "`change_feed` with metadata", "older versions", "log", "a month")
    return f"""{grid(head, rows)}

What it is made from, all measured by `bench.capacity`:

- {table_bytes:.0f} bytes an instance in `instance`, `series`, `study` and `file_index` together, in a built lake of
  {largest["instance"]["rows"]:,} instances; {files.slope * 1e6:.0f} files a million instances after upkeep, in all.
- {entry_bytes:.0f} bytes an entry of `change_feed`, where all entries come of a few files and shorten one another; and
  {alone_bytes:,} bytes for the metadata of an entry compressed by itself, of {hour["metadata"]["raw_bytes"]:,} bytes of
  text. Real feeds lie in between. There are {entries:.2f} entries an instance.
- An hour leaves {dead_bytes / 1e6:.1f} MB of files in older versions and {commit_bytes / 1e3:.0f} kB of commits; every
  {_COMMITS_PER_CHECKPOINT} commits make a checkpoint of {checkpoint_bytes:.0f} bytes a live file. All of that stays for
  `DICOM_RETENTION_HOURS` ({RETENTION_HOURS}).

*A month* is bytes × price: all columns of bytes, at an **assumed** price of {PRICE_PER_GB_MONTH} for a GB and month, in
whatever currency. Put that of your account in its place; requests come on top."""


def history_part(year: Result) -> str:
    """Dagster's event log."""
    event_bytes = year["full"]["history_bytes"] / (year["hours"] * _ASSETS)
    rows = []
    for size in SIZES:
        hours = size / INSTANCES_PER_HOUR
        length = f"{hours / 24:,.0f} days" if hours < _HOURS_PER_YEAR else f"{hours / _HOURS_PER_YEAR:.1f} years"
        rows.append(
            (
                _short(size),
                f"{hours:,.0f} ({length})",
                _cell(hours * _ASSETS * event_bytes / 1e6, "extrapolated", "{:,.0f} MB"),
            )
        )
    return (
        f"{grid(('instances', f'hours, at {INSTANCES_PER_HOUR:,} new ones an hour', 'event log'), rows)}\n\n"
        f"Measured by `bench.year`: {event_bytes / 1e3:.1f} kB an asset and partition in SQLite, over "
        f"{year['hours']:,} hours of {_ASSETS} assets in range runs. So a year of hours takes "
        f"{event_bytes * _ASSETS * _HOURS_PER_YEAR / 1e9:.2f} GB (extrapolated), however many instances they bring."
    )


def _lines(cases: Sequence[Result], *, scattered: bool) -> dict[str, Line]:
    chosen = sorted((case for case in cases if case["scattered"] is scattered), key=lambda case: int(case["rows"]))
    if len(chosen) < 2:
        return {}
    names = [name for name, value in chosen[0].items() if isinstance(value, dict) and "median" in value]
    return {name: Line(tuple((case["rows"], case[name]["median"]) for case in chosen)) for name in names}


def _total(stock: dict[str, dict[str, int]], figure: str) -> int:
    return sum(table[figure] for table in stock.values())


def _cell(value: float, kind: str, form: str) -> str:
    return f"{form.format(value)} ({kind})"


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"


def _short(rows: int) -> str:
    return f"{rows // 10**6:,} million" if rows < 10**9 else f"{rows // 10**9:,} billion"
