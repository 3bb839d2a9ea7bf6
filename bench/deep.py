"""Windows of up to a million entries, read in parts and at one go: `python -m bench.deep --help`.

The service goes through all rows of a window before the offset of the page that is asked for; here it takes its time
for that. Entries come without metadata, so that little else is measured.
"""

import argparse
import time
import urllib.request
from datetime import datetime, timedelta
from typing import Any

from bench.feed import Feed, Spec, open_feed
from bench.measure import ROOT, save
from bench.server import serving
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.service import client as dicom_service
from dicom_assets.service.client import DicomService

DEPTHS = (10_000, 100_000, 300_000, 1_000_000)
PAGES_PER_PART = dicom_service.PAGES_PER_PART
ONE_PART = 10**9


def read(url: str, window: Window, pages_per_part: int) -> dict[str, Any]:
    """What it costs to read the window in parts of so many pages."""
    usual, dicom_service.PAGES_PER_PART = dicom_service.PAGES_PER_PART, pages_per_part
    scanned, wall, cpu = _scanned(url), time.perf_counter(), time.process_time()
    try:
        with DicomService(url) as client:
            pages = client.fetch_pages(window, include_metadata=False)
            sequences = [entry.sequence for page in pages for entry in page]
    finally:
        dicom_service.PAGES_PER_PART = usual
    return {
        "entries": len(set(sequences)),
        "is_in_order": sequences == sorted(sequences),
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "rows_scanned": _scanned(url) - scanned,
    }


def first_entries(feed: Feed, entries: int) -> Window:
    """The window of the feed's first entries, which are spread evenly over its hour."""
    start = datetime.fromisoformat(feed.start)
    return Window(start, start + timedelta(hours=1) * (entries / feed.changes))


def _scanned(url: str) -> int:
    with urllib.request.urlopen(f"{url}/scanned") as answer:
        return int(answer.read())


def compare(depths: list[int], scanned_per_second: float) -> list[dict[str, Any]]:
    """Each depth in parts and in one."""
    feed = open_feed(Spec(max(depths), brief=True))
    cases = []
    with serving(feed.folder, scanned_per_second) as url:
        for depth in sorted(depths):
            window = first_entries(feed, depth)
            case = {"entries": depth, "parts": read(url, window, PAGES_PER_PART), "one": read(url, window, ONE_PART)}
            case["is_correct"] = all(
                case[way]["entries"] == depth and case[way]["is_in_order"] for way in ("parts", "one")
            )
            cases.append(case)
            print(
                f"{depth:>9,} entries: in parts {case['parts']['rows_scanned']:,} rows scanned, "
                f"{case['parts']['seconds']} s; at one go {case['one']['rows_scanned']:,}, {case['one']['seconds']} s"
                f"{'' if case['is_correct'] else ', NOT CORRECT'}",
                flush=True,
            )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Windows of very many entries, read in parts and at one go.")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument(
        "--scanned-per-second", type=float, default=1e7, help="rows that the service goes through, for each request"
    )
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    result = {
        "scanned_per_second": options.scanned_per_second,
        "pages_per_part": PAGES_PER_PART,
        "cases": compare(options.depths, options.scanned_per_second),
    }
    path = save("deep", result, publish=options.publish)
    print(f"Written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
