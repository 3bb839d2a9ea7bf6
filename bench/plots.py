"""The plots of docs/benchmarks.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

OURS, OTHERS, FLOOR, SECOND = "#0b7a75", "#9aa5b1", "#d9dee3", "#c8553d"
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 150,
    "svg.hashsalt": "bench",
}


@contextmanager
def figure(path: Path, columns: int = 1, height: float = 3.4) -> Iterator[Any]:
    """Axes in a row, saved at the end."""
    with mpl.rc_context(_STYLE):
        drawing, axes = plt.subplots(1, columns, figsize=(9, height))
        yield axes
        drawing.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, metadata={"Software": None})
        plt.close(drawing)


def _from_zero(axes: Any, label: str) -> None:
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.set_xlabel(label)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_hour(result: dict[str, Any], path: Path) -> None:
    """Changes per second of every contender that keeps a table, and of the download."""
    rows = [row for row in result["contenders"] if row["name"] not in ("bare", "ours_command")]
    rows.sort(key=lambda row: row["changes_per_second"])
    with figure(path, height=0.8 + 0.42 * len(rows)) as axes:
        speeds = [row["changes_per_second"] for row in rows]
        colours = [
            OURS if row["name"].startswith("ours") else FLOOR if row["name"] == "download" else OTHERS for row in rows
        ]
        axes.barh(range(len(rows)), speeds, color=colours)
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
        for place, speed in enumerate(speeds):
            axes.text(speed, place, f" {speed:,}", va="center")
        axes.set_xlim(0, max(speeds) * 1.15)
        axes.set_title(f"Changes per second: an hour of {result['changes']:,} changes")
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)


def _label(row: dict[str, Any]) -> str:
    tables = {0: "no table", 1: "1 table"}.get(row["tables"], f"{row['tables']} tables")
    wrong = "" if row["is_correct"] else ", not correct"
    return f"{row['label'].replace('*', '').replace('`', '')} ({tables}{wrong})"


def draw_growth(result: dict[str, Any], path: Path) -> None:
    """CPU and memory of the same hour, by the rows that `instance` has before."""
    with figure(path, columns=2) as (cpu, memory):
        for scattered, colour, label in ((False, OURS, "updates of recent studies"), (True, SECOND, "scattered")):
            cases = sorted((case for case in result["cases"] if case["scattered"] is scattered), key=_rows_of)
            rows = [case["rows"] for case in cases]
            for axes, name in ((cpu, "cpu_seconds"), (memory, "peak_mib")):
                values = [case[name] for case in cases]
                middle = [value["median"] for value in values]
                low = [value["median"] - value["min"] for value in values]
                high = [value["max"] - value["median"] for value in values]
                axes.errorbar(rows, middle, (low, high), color=colour, marker="o", capsize=3, label=label)
        memory.axhline(1024, color=OTHERS, linestyle=":", label="1 GiB")
        for axes, title in ((cpu, "CPU seconds of the hour"), (memory, "Peak memory, MiB")):
            axes.set_xscale("log")
            sizes = sorted({case["rows"] for case in result["cases"]})
            axes.set_xticks(sizes, [_short(size) for size in sizes])
            axes.minorticks_off()
            _from_zero(axes, "rows in instance before the hour")
            axes.set_title(title)
        memory.legend(frameon=False, loc="lower right")


def draw_engines(result: dict[str, Any], path: Path) -> None:
    """CPU and seconds of the same hour by either engine, by the rows that `instance` has before."""
    with figure(path, columns=2) as (cpu, seconds):
        for scattered, style in ((False, "-"), (True, "--")):
            for engine, colour in (("delta-rs", OURS), ("spark", SECOND)):
                cases = [
                    case for case in result["cases"] if case["scattered"] is scattered and case["engine"] == engine
                ]
                if not cases:
                    continue
                cases.sort(key=_rows_of)
                label = f"{engine}{', scattered updates' if scattered else ''}"
                for axes, name in ((cpu, "total_cpu_seconds"), (seconds, "seconds")):
                    middle = [case[name]["median"] for case in cases]
                    low = [case[name]["median"] - case[name]["min"] for case in cases]
                    high = [case[name]["max"] - case[name]["median"] for case in cases]
                    rows = [case["rows"] for case in cases]
                    axes.errorbar(
                        rows, middle, (low, high), color=colour, linestyle=style, marker="o", capsize=3, label=label
                    )
        sizes = sorted({case["rows"] for case in result["cases"]})
        for axes, title in ((cpu, "CPU seconds of the hour, Spark's included"), (seconds, "Seconds of the hour")):
            axes.set_xscale("log")
            axes.set_xticks(sizes, [_short(size) for size in sizes])
            axes.minorticks_off()
            _from_zero(axes, "rows in instance before the hour")
            axes.set_title(title)
        cpu.legend(frameon=False)


def _short(rows: int) -> str:
    return f"{rows / 1e6:.0f} M" if rows >= 950_000 else f"{rows / 1e3:.0f} k"


def _rows_of(case: dict[str, Any]) -> int:
    return int(case["rows"])


def draw_deep(result: dict[str, Any], path: Path) -> None:
    """Rows that the service goes through, by the entries of the window."""
    with figure(path) as axes:
        entries = [case["entries"] for case in result["cases"]]
        for way, colour, label in (("parts", OURS, "in parts"), ("one", SECOND, "at one go")):
            axes.plot(
                entries, [case[way]["rows_scanned"] for case in result["cases"]], color=colour, marker="o", label=label
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(entries, [_short(size) for size in entries])
        axes.minorticks_off()
        axes.set_xlabel("entries in the window")
        axes.set_title("Rows that the service goes through")
        axes.legend(frameon=False, loc="upper left")


def draw_month(result: dict[str, Any], path: Path) -> None:
    """What an hour costs, day by day."""
    with figure(path) as axes:
        days = range(1, result["days"] + 1)
        axes.plot(days, result["days_seconds"], color=OURS, marker=".", label="seconds")
        axes.plot(days, result["days_cpu_seconds"], color=SECOND, marker=".", label="CPU seconds")
        axes.axhline(1.3 * result["days_seconds"][0], color=OTHERS, linestyle=":", label="1.3 × the first day")
        _from_zero(axes, "day")
        axes.set_title(f"An hour of {result['changes_per_hour']:,} changes, median of each day")
        axes.legend(frameon=False, loc="lower right")


def draw_year(result: dict[str, Any], path: Path) -> None:
    """What the range runs of a year cost, and the memory after each."""
    with figure(path, columns=2) as (seconds, memory):
        for kind, colour, label in (("full", OURS, "five tables"), ("empty", OTHERS, "empty partitions")):
            runs = result[kind]["runs"]
            months = range(1, len(runs) + 1)
            seconds.plot(months, [run["seconds"] for run in runs], color=colour, marker="o", label=label)
            memory.plot(months, [run["memory_mib"] for run in runs], color=colour, marker="o", label=label)
        work = [run["work_seconds"] for run in result["full"]["runs"]]
        seconds.plot(range(1, len(work) + 1), work, color=SECOND, marker="o", label="of these, the work")
        for axes, title in ((seconds, "Seconds of a run"), (memory, "Memory after it, MiB")):
            _from_zero(axes, f"run of {result['hours_per_run']} hours")
            axes.set_title(title)
        seconds.legend(frameon=False)
