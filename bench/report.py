"""The published results as tables and plots: `python -m bench.report` writes docs/benchmarks.md and docs/images."""

from typing import Any


def hour_table(result: dict[str, Any]) -> list[str]:
    """The contenders of an hour, fastest first, as Markdown."""
    rows = sorted(result["contenders"], key=lambda row: -row["changes_per_second"])
    floor = next((row["seconds"]["median"] for row in rows if row["name"] == "download"), None)
    lines = [
        "| way | tables | correct | changes per second | seconds (least–most) | × the download | CPU s | peak memory "
        "| written |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        seconds = row["seconds"]
        ratio = f"{seconds['median'] / floor:.2f}" if floor else ""
        correct = "–" if not row["tables"] else "yes" if row["is_correct"] else "**no**"
        lines.append(
            f"| {row['label']} | {row['tables'] or '–'} | {correct} | {row['changes_per_second']:,} | "
            f"{seconds['median']:.2f} ({seconds['min']:.2f}–{seconds['max']:.2f}) | {ratio} | "
            f"{row['cpu_seconds']['median']:.1f} | {row['peak_mib']['median']:,.0f} MiB | "
            f"{row['bytes_written']['median'] / 2**20:.1f} MiB |"
        )
    return lines


def print_hour(result: dict[str, Any]) -> None:
    """The same on a terminal."""
    print(f"{result['changes']:,} changes, {result['bytes'] / 2**20:.0f} MiB of pages, {result['rounds']} rounds\n")
    for row in sorted(result["contenders"], key=lambda row: -row["changes_per_second"]):
        seconds = row["seconds"]
        correct = "" if row["is_correct"] else "  NOT CORRECT"
        print(
            f"{row['label'].replace('*', ''):52} {row['changes_per_second']:>8,} changes/s {seconds['median']:7.2f} s "
            f"({seconds['min']:.2f}–{seconds['max']:.2f}) {row['cpu_seconds']['median']:6.1f} CPU s "
            f"{row['peak_mib']['median']:6.0f} MiB{correct}"
        )
