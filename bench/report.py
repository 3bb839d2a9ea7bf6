"""The results as tables and plots: `python -m bench.report` writes the generated parts of two pages in docs/.

These are benchmarks.md and capacity.md.

Without arguments it takes the published results (bench/results); `--latest` takes those of the last runs, for a look.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isnan
from operator import ge, le
from pathlib import Path
from typing import Any

from bench import capacity_page
from bench.document import fill_in, grid
from bench.measure import LATEST, PUBLISHED, ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
CAPACITY = ROOT / "docs" / "capacity.md"
IMAGES = ROOT / "docs" / "images"
_NAMES = (
    "hour",
    "orchestration",
    "growth",
    "engines",
    "capacity",
    "month",
    "year",
    "deep",
    "million",
    "headers",
    "fan_out",
    "turns",
)
_MISSING = "Not measured yet."

Result = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Something that the project wants to be, and what was measured."""

    name: str
    figure: str
    is_met: bool

    @property
    def row(self) -> tuple[str, str, str]:
        """Of the table."""
        return self.name, self.figure, "met" if self.is_met else "**missed**"


def hour_table(result: Result) -> str:
    """The contenders of an hour, fastest first."""
    return grid(
        (
            "way",
            "tables",
            "correct",
            "changes per second",
            "seconds (least–most)",
            "× download",
            "CPU s",
            "memory",
            "written",
        ),
        [_hour_row(row, _contender(result, "download")) for row in _fastest_first(result)],
    )


def _hour_row(row: Result, floor: Result | None) -> tuple[str, ...]:
    seconds = row["seconds"]
    return (
        row["label"],
        str(row["tables"] or "–"),
        _correct(row),
        f"{row['changes_per_second']:,}",
        f"{seconds['median']:.2f} ({seconds['min']:.2f}–{seconds['max']:.2f})",
        f"{seconds['median'] / floor['seconds']['median']:.1f}" if floor else "",
        f"{row['cpu_seconds']['median']:.1f}",
        f"{row['peak_mib']['median']:,.0f} MiB",
        f"{row['bytes_written']['median'] / 2**20:.1f} MiB" if row["tables"] else "–",
    )


def _correct(row: Result) -> str:
    return "–" if not row["tables"] else "yes" if row["is_correct"] else "**no**"


def hour_summary(result: Result) -> str:
    """What a stranger wants to know."""
    rows = [row for row in _fastest_first(result) if row["name"] not in ("bare", "ours_extract", "ours_command")]
    return grid(
        ("way", "changes per second", "tables kept", "correct"),
        [
            (row["label"], f"{row['changes_per_second']:,}", str(row["tables"] or "none: the floor"), _correct(row))
            for row in rows
        ],
    )


def orchestration_table(result: Result) -> str:
    """What Dagster adds to the work."""
    chain, launches = result["chain"], result["launches"]
    figures = [
        ("`import dagster`, Python's start included", result["imports"]["dagster"]),
        ("`import dicom_assets.definitions`, likewise", result["imports"]["dicom_assets.definitions"]),
        ("… where numpy is installed, which Arrow loads", result["imports"]["dicom_assets.definitions with numpy"]),
        ("five assets in one process, start to success: the work", chain["work_seconds"]),
        ("… and what is not the work", chain["orchestration_seconds"]),
    ]
    for executor, of in (("in_process", "in-process executor, the default"), ("multiprocess", "multiprocess executor")):
        run = launches[executor]
        figures += [
            (f"{of}: launch to start, through the queue", run["until_start_seconds"]),
            (f"{of}: start to success", run["run_seconds"]),
            (f"{of}: **launch to success**", run["launch_to_success_seconds"]),
        ]
    rows = [(label, f"{of['median']:.2f}", f"{of['min']:.2f}–{of['max']:.2f}") for label, of in figures]
    packages = ", ".join(f"{name} {cost:,.0f}" for name, cost in result["slowest_imports_milliseconds"].items())
    table = grid((f"an hour of {result['changes_per_hour']:,} changes", "seconds, median", "least–most"), rows)
    return f"{table}\n\nWhere the import's time goes, in milliseconds by package (`-X importtime`): {packages}."


def growth_table(result: Result) -> str:
    """The same hour into tables of more and more rows."""
    rows = []
    for case in sorted(result["cases"], key=lambda case: (case["scattered"], case["rows"])):
        least, cpu = _growth_case(result, case["scattered"])["cpu_seconds"], case["cpu_seconds"]
        rows.append(
            (
                f"{case['rows']:,}",
                "all over the history" if case["scattered"] else "recent studies",
                f"{cpu['median']:.2f} ({cpu['min']:.2f}–{cpu['max']:.2f})",
                f"{cpu['median'] / least['median']:.2f}",
                f"{case['seconds']['median']:.2f}",
                f"{case['peak_mib']['median']:,.0f} MiB",
                "yes" if case["is_correct"] else "**no**",
            )
        )
    return grid(
        ("rows before", "updates and deletes", "CPU s (least–most)", "× the smallest", "seconds", "memory", "correct"),
        rows,
    )


def engines_table(result: Result) -> str:
    """The same hour by both engines, and from where on Spark takes less of this machine."""
    rows = []
    for case in sorted(result["cases"], key=lambda case: (case["scattered"], case["rows"], case["engine"])):
        is_spark = case["engine"] == "spark"
        cpu, seconds = case["total_cpu_seconds"], case["seconds"]
        rows.append(
            (
                f"{case['rows']:,}",
                "all over the history" if case["scattered"] else "recent studies",
                "Spark" if is_spark else "delta-rs",
                f"{seconds['median']:.1f} ({seconds['min']:.1f}–{seconds['max']:.1f})",
                f"{cpu['median']:.1f} ({cpu['min']:.1f}–{cpu['max']:.1f})",
                f"{case['spark_cpu_seconds']['median']:.1f}" if is_spark else "–",
                f"{case['peak_mib']['median']:,.0f} MiB",
                f"{case['spark_peak_mib']['median']:,.0f} MiB" if is_spark else "–",
                "yes" if case["is_correct"] and case["is_equal"] else "**no**",
            )
        )
    head = ("rows before", "updates and deletes", "engine", "seconds (least–most)", "CPU s (least–most)")
    table = grid((*head, "of these, Spark's", "memory of the run", "of Spark", "correct, and equal"), rows)
    findings = [find_crossover(result, scattered=scattered) for scattered in (False, True)]
    return "\n".join([table, "", *(f"- {finding}" for finding in findings if finding)])


def find_crossover(result: Result, *, scattered: bool) -> str:
    """Whether Spark takes less CPU than delta-rs from some size on, in words; nothing where nothing was measured."""
    cpu: dict[int, dict[str, float]] = {}
    for case in result["cases"]:
        if case["scattered"] is scattered:
            cpu.setdefault(case["rows"], {})[case["engine"]] = case["total_cpu_seconds"]["median"]
    if not cpu:
        return ""
    kind = "Updates all over the history" if scattered else "Updates of recent studies"
    ratios = {rows: engines["spark"] / engines["delta-rs"] for rows, engines in sorted(cpu.items())}
    told = "Spark takes, of delta-rs's CPU, " + ", ".join(f"{of:.1f} × at {rows:,} rows" for rows, of in ratios.items())
    cheaper = [rows for rows, ratio in ratios.items() if ratio < 1]
    if not cheaper:
        largest = max(ratios)
        return f"{kind}: **no crossover up to {largest:,} rows on this machine**. {told}."
    below = [rows for rows in ratios if rows < cheaper[0]]
    place = f"between {below[-1]:,} and {cheaper[0]:,} rows" if below else f"at {cheaper[0]:,} rows or before"
    return f"{kind}: **crossover {place}** on this machine. {told}."


def month_table(result: Result) -> str:
    """An hour of the first day, and one of the last."""
    first, last = result["first_day"], result["last_day"]
    return grid(
        (f"an hour of {result['changes_per_hour']:,} changes, median", "first day", f"day {result['days']}", "ratio"),
        [
            (label, f"{first[name]:.3f}", f"{last[name]:.3f}", f"{last[name] / first[name]:.2f}")
            for label, name in (("seconds", "seconds"), ("CPU seconds", "cpu_seconds"))
        ],
    )


def turns_table(result: Result) -> str:
    """Return what two checkouts took in turns."""
    cases = {
        "hour": f"an hour of {result['changes']:,} changes",
        "month": f"hours of 200 changes, {24 * result['days']} of them",
    }
    figures = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "peak_mib": "memory, MiB"}
    return grid(
        ("case", "figure", "this commit", "the earlier one", "ratio", "least and greatest ratio of a pair"),
        [
            (
                cases[case],
                label,
                *(f"{found[name][which]['median']:,.2f}" for which in ("this", "other")),
                f"{found[name]['ratio']:.2f}",
                f"{found[name]['ratio_of_pairs']['min']:.2f}, {found[name]['ratio_of_pairs']['max']:.2f}",
            )
            for case, found in result["cases"].items()
            for name, label in figures.items()
        ],
    )


def year_table(result: Result) -> str:
    """A year of hours, and an empty one."""
    full, empty = result["full"], result["empty"]
    return grid(
        ("", "seconds", "of these, the work", "CPU s", "MiB after the first, third and last run", "Dagster's history"),
        [
            (
                label,
                f"{year['seconds']:,.0f}",
                f"{year['work_seconds']:,.0f}",
                f"{year['cpu_seconds']:,.0f}",
                ", ".join(
                    f"{run['memory_mib']:,}" for run in (year["runs"][0], year["runs"][:3][-1], year["runs"][-1])
                ),
                f"{year['history_bytes'] / 2**20:,.0f} MiB",
            )
            for label, year in ((f"{result['changes']:,} changes, five tables", full), ("empty partitions", empty))
        ],
    )


def deep_table(result: Result) -> str:
    """Windows of more and more entries, in parts and at one go."""
    rows = []
    for case in result["cases"]:
        parts, one = case["parts"], case["one"]
        rows.append(
            (
                f"{case['entries']:,}",
                f"{parts['rows_scanned']:,}",
                f"{one['rows_scanned']:,}",
                f"{one['rows_scanned'] / parts['rows_scanned']:.1f}",
                f"{parts['seconds']:.1f}",
                f"{one['seconds']:.1f}",
                "yes" if case["is_correct"] else "**no**",
            )
        )
    return grid(
        ("entries", "rows scanned, in parts", "at one go", "ratio", "seconds, in parts", "at one go", "correct"), rows
    )


def million_table(result: Result) -> str:
    """A huge hour under limits of memory: what it takes, and of that each table."""
    tables = list(result["cases"][0]["tables"])
    return grid(
        ("limit", "peak memory", "seconds", "CPU s", *(f"`{name}` CPU s (commits)" for name in tables), "correct"),
        [
            (
                f"{case['limit_mb']:,} MiB",
                f"{case['peak_mib']:,.0f} MiB",
                f"{case['wall_seconds']:.0f}",
                f"{case['cpu_seconds']:.0f}",
                *(f"{case['tables'][name]['cpu_seconds']:.1f} ({case['tables'][name]['commits']})" for name in tables),
                "yes" if case["is_correct"] else "**no**",
            )
            for case in result["cases"]
        ],
    )


def fan_out_table(result: Result) -> str:
    """A month by more and more workers."""
    slowest = result["cases"][0]
    return grid(
        ("workers", "seconds", "× as fast", "reading at once", "s of reading", "s of merging", "correct"),
        [
            (
                f"{case['workers']}{', one of them killed' * case['killed']}",
                f"{case['seconds']:,.0f}",
                f"{slowest['seconds'] / case['seconds']:.2f}",
                str(case["reading_at_once"]),
                f"{case['reading_seconds']:,.0f}",
                f"{case['merging_seconds']:,.0f}",
                "yes" if case["is_correct"] else "**no**",
            )
            for case in result["cases"]
        ],
    )


def headers_table(result: Result) -> str:
    """Headers of files in Azure storage, fastest first."""
    rows = sorted(result["contenders"], key=lambda row: -int(row["headers_per_second"]))
    return grid(
        ("way", "headers per second", "seconds (least–most)", "CPU s", "memory", "correct"),
        [
            (
                row["label"],
                f"{row['headers_per_second']:,}",
                f"{row['seconds']['median']:.2f} ({row['seconds']['min']:.2f}–{row['seconds']['max']:.2f})",
                f"{row['cpu_seconds']['median']:.1f}",
                f"{row['peak_mib']['median']:,.0f} MiB",
                "yes" if row["is_correct"] else "**no**",
            )
            for row in rows
        ],
    )


def targets_of_hour(result: Result) -> Iterable[Target]:
    """Of single hours."""

    def seconds(name: str) -> float:
        row = _contender(result, name)
        return float(row["seconds"]["median"]) if row else float("nan")

    floor, ours = seconds("download"), seconds("ours_inprocess")
    wanted = (
        ("(a) extraction at most 1.5 × the download", seconds("ours_extract") / floor, 1.5, le),
        ("(b) five tables, in process, at most 3 × the download", ours / floor, 3, le),
        ("(b) at least 5 × as fast as dlt, tuned", seconds("dlt_tuned") / ours, 5, ge),
        ("(b) at least 3 × as fast as the hand-written script", seconds("handwritten") / ours, 3, ge),
        ("(b) stretch: 10 × as fast as dlt, tuned", seconds("dlt_tuned") / ours, 10, ge),
    )
    yield from (
        Target(name, f"{ratio:.2f} ×", holds(ratio, limit)) for name, ratio, limit, holds in wanted if not isnan(ratio)
    )
    if run := _contender(result, "ours_dagster"):
        extra = run["orchestration_seconds"]["median"]
        yield Target("(c) at most 3 s of orchestration, start to success", f"{extra:.2f} s", extra <= 3)


def targets_of_orchestration(result: Result) -> Iterable[Target]:
    """Of a run and its start."""
    extra, ratio = result["chain"]["orchestration_seconds"]["median"], result["import_ratio"]
    yield Target(
        f"at most 3 s of orchestration for {result['changes_per_hour']:,} changes", f"{extra:.2f} s", extra <= 3
    )
    yield Target("import of the definitions at most 1.5 × that of dagster", f"{ratio:.2f} ×", ratio <= 1.5)


def targets_of_growth(result: Result) -> Iterable[Target]:
    """Of large tables."""
    for scattered in (False, True):
        least = _growth_case(result, scattered)
        for case in result["cases"]:
            if case["scattered"] is not scattered or case["rows"] < 4_000_000:
                continue
            times = 2 if case["rows"] < 10_000_000 else 3
            ratio = case["cpu_seconds"]["median"] / least["cpu_seconds"]["median"]
            memory = case["peak_mib"]["max"]
            kind = ", updates all over the history" if scattered else ""
            yield Target(
                f"(d) {case['rows'] / 1e6:.0f} million rows{kind}: at most {times} × the CPU of "
                f"{least['rows'] / 1e3:.0f} thousand, and 1 GiB",
                f"{ratio:.2f} ×, {memory:,.0f} MiB",
                ratio <= times and memory <= 1024,
            )


def targets_of_year(result: Result) -> Iterable[Target]:
    """Of a year at once."""
    full = result["full"]
    first, last = full["runs"][0]["memory_mib"], full["runs"][-1]["memory_mib"]
    allowed = 300 * result["hours"] / 8760  # a year's work may take 5 minutes
    yield Target(
        f"(e) the work of {result['hours']:,} hours in at most {allowed:.0f} s",
        f"{full['work_seconds']:,.0f} s",
        full["work_seconds"] <= allowed,
    )
    yield Target("(e) memory flat (at most 1.2 × after the last run)", f"{first} to {last} MiB", last <= 1.2 * first)
    yield Target("(e) at most 1.3 × Dagster's empty partitions", f"{result['ratio']:.2f} ×", result["ratio"] <= 1.3)


def targets_of_month(result: Result) -> Iterable[Target]:
    """Of many small commits."""
    ratio = result["last_day"]["seconds"] / result["first_day"]["seconds"]
    yield Target("(f) an hour of the last day at most 1.3 × one of the first", f"{ratio:.2f} ×", ratio <= 1.3)


def targets_of_million(result: Result) -> Iterable[Target]:
    """Of an hour that is larger than memory."""
    for case in result["cases"]:
        yield Target(
            f"an hour of {result['changes']:,} changes within {case['limit_mb']:,} MiB",
            f"{case['peak_mib']:,.0f} MiB",
            case["peak_mib"] <= case["limit_mb"],
        )


def targets_of_headers(result: Result) -> Iterable[Target]:
    """Of reading headers."""
    ours, *others = result["contenders"]
    for other in others:
        ratio = other["seconds"]["median"] / ours["seconds"]["median"]
        name = other["label"].partition(",")[0]
        yield Target(f"{result['headers']:,} headers sooner than {name}", f"{ratio:.2f} × as fast", ratio > 1)


def targets_table(results: dict[str, Result]) -> str:
    """All targets whose figures there are."""
    parts: dict[str, Callable[[Result], Iterable[Target]]] = {
        "hour": targets_of_hour,
        "orchestration": targets_of_orchestration,
        "growth": targets_of_growth,
        "year": targets_of_year,
        "month": targets_of_month,
        "million": targets_of_million,
        "headers": targets_of_headers,
    }
    rows = [target.row for name, build in parts.items() if name in results for target in build(results[name])]
    return grid(("target", "measured", ""), rows) if rows else _MISSING


def about(results: dict[str, Result]) -> str:
    """When and on what it was measured."""
    lines = []
    for name, result in results.items():
        machine = result["machine"]
        packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
        lines.append(
            f"- {name}: `{result['command']}` on {result['date']} at commit `{result['commit']}`; "
            f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Python {machine['python']}, "
            f"{packages}; load at the start {result['load_at_start']}"
        )
    return "\n".join(lines) or _MISSING


def print_hour(result: Result) -> None:
    """The contenders on a terminal."""
    print(f"{result['changes']:,} changes, {result['bytes'] / 2**20:.0f} MiB of pages, {result['rounds']} rounds\n")
    for row in _fastest_first(result):
        seconds = row["seconds"]
        correct = "" if row["is_correct"] else "  NOT CORRECT"
        print(
            f"{row['label'].replace('*', ''):52} {row['changes_per_second']:>8,} changes/s {seconds['median']:7.2f} s "
            f"({seconds['min']:.2f}–{seconds['max']:.2f}) {row['cpu_seconds']['median']:6.1f} CPU s "
            f"{row['peak_mib']['median']:6.0f} MiB{correct}"
        )


def _fastest_first(result: Result) -> list[Result]:
    return sorted(result["contenders"], key=lambda row: -int(row["changes_per_second"]))


def _contender(result: Result, name: str) -> Result | None:
    return next((row for row in result["contenders"] if row["name"] == name), None)


def _growth_case(result: Result, scattered: bool) -> Result:
    cases = [case for case in result["cases"] if case["scattered"] is scattered]
    return min(cases, key=lambda case: int(case["rows"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the generated parts of docs/benchmarks.md and docs/capacity.md."
    )
    parser.add_argument("--latest", action="store_true", help="the results of the last runs, written to the cache")
    options = parser.parse_args()
    source = LATEST if options.latest else PUBLISHED
    target, images = (LATEST / "benchmarks.md", LATEST / "images") if options.latest else (DOCUMENT, IMAGES)
    results = {
        name: json.loads(path.read_text()) for name in _NAMES if (path := Path(source / f"{name}.json")).exists()
    }
    builders = {
        "hour": hour_table,
        "orchestration": orchestration_table,
        "growth": growth_table,
        "engines": engines_table,
        "month": month_table,
        "year": year_table,
        "deep": deep_table,
        "million": million_table,
        "headers": headers_table,
        "fan_out": fan_out_table,
        "turns": turns_table,
    }
    parts = dict.fromkeys(builders, _MISSING)
    for name, build in builders.items():
        if name in results:
            parts[name] = build(results[name])
        if name in results and name in _ALTERNATIVES:
            parts[name] = f"{_plot(name, results[name], images)}\n\n{parts[name]}"
    parts["summary"] = hour_summary(results["hour"]) if "hour" in results else _MISSING
    parts["targets"] = targets_table(results)
    parts["about"] = about(results)
    target.write_text(fill_in(DOCUMENT, DOCUMENT.read_text(), parts))
    print(f"Written to {target.relative_to(ROOT)}")
    page = target.with_name(CAPACITY.name)
    page.write_text(fill_in(CAPACITY, CAPACITY.read_text(), capacity_page.build_parts(results)))
    print(f"Written to {page.relative_to(ROOT)}")


def _plot(name: str, result: Result, images: Path) -> str:
    from bench import plots

    path = images / f"bench-{name}.png"
    getattr(plots, f"draw_{name}")(result, path)
    return f"![{_ALTERNATIVES[name]}](images/{path.name})"


_ALTERNATIVES = {
    "hour": "Changes per second by contender; the figures are in the table below.",
    "growth": "CPU and memory of the same hour by rows in the table before it; the figures are in the table below.",
    "engines": "CPU and seconds of the same hour by either engine; the figures are in the table below.",
    "month": "Seconds of an hour, day by day.",
    "year": "Seconds of each range run, and the memory after it.",
    "deep": "Rows scanned by entries in the window, in parts and at one go; the figures are in the table below.",
}


if __name__ == "__main__":
    main()
