"""What a lake takes on disk: bytes by row, files, and the log, as written and after upkeep; and what an hour adds.

python -m bench.capacity --rows 100000 1000000

The lakes and hours of `bench/growth.py`. How long anything takes is not measured here, so that a busy machine does not
matter.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from bench.check import count_rows, expected_counts
from bench.feed import CACHE, open_feed
from bench.growth import copy_history, spec_of, whole_hours
from bench.measure import ROOT, measure, save
from bench.server import serving

_TABLES = ("change_feed", "instance", "series", "study", "file_index")
_SAMPLE = 2_000
Sizes = dict[str, dict[str, int]]


def take_stock(lake: Path) -> Sizes:
    """By table: rows, live files, bytes of these and of all data files, and of the log's last commit and checkpoint."""
    return {name: _take_stock(lake / name) for name in _TABLES}


def _take_stock(path: Path) -> dict[str, int]:
    adds = pa.table(DeltaTable(path).get_add_actions(flatten=True))
    log = sorted((path / "_delta_log").glob("*.json"))
    checkpoints = sorted((path / "_delta_log").glob("*.checkpoint*.parquet"))
    return {
        "rows": sum(adds["num_records"].to_pylist()),
        "files": len(adds),
        "live_bytes": sum(adds["size_bytes"].to_pylist()),
        "stored_bytes": sum(file.stat().st_size for file in path.glob("*.parquet")),
        "commit_bytes": log[-1].stat().st_size,
        "checkpoint_bytes": checkpoints[-1].stat().st_size if checkpoints else 0,
    }


def measure_lake(rows: int) -> dict[str, Any]:
    """A lake as its hours wrote it, and after the upkeep."""
    from bench.ours import open_lake
    from dicom_assets.core.columns.schema import TABLES
    from dicom_assets.lake.upkeep import maintain

    with TemporaryDirectory(dir=CACHE) as name:
        lake = Path(name) / "tables"
        copy_history(rows, lake)
        before = take_stock(lake)
        for table in TABLES:
            maintain(open_lake(str(lake)), table)
        return {"rows": rows, "as_written": before, "after_upkeep": take_stock(lake)}


def measure_hour(rows: int, changes: int) -> dict[str, Any]:
    """What an hour adds to a lake, and how well its metadata compresses."""
    feed = open_feed(spec_of(rows, changes, scattered=False))
    with TemporaryDirectory(dir=CACHE) as name, serving(feed.folder) as url:
        lake = Path(name) / "tables"
        copy_history(rows, lake)
        before = take_stock(lake)
        measure([sys.executable, "-m", "bench.ours_inprocess", url, str(lake), feed.start, feed.end])
        return {
            "changes": changes,
            "before": before,
            "after": take_stock(lake),
            "metadata": _measure_metadata(lake),
            "is_correct": count_rows(lake) == expected_counts(feed),
        }


def _measure_metadata(lake: Path) -> dict[str, float]:
    """Bytes of an entry's metadata: as text, and by itself under zstd, where no other entry's helps to shorten it."""
    feed = DeltaTable(lake / "change_feed").to_pyarrow_dataset().to_table(["metadata"], use_threads=False)
    texts = feed["metadata"].drop_null().to_pylist()
    raw = [text.encode() for text in texts[:: max(1, len(texts) // _SAMPLE)]]
    alone = sum(len(pa.compress(text, "zstd", asbytes=True)) for text in raw)
    return {"raw_bytes": round(sum(map(len, raw)) / len(raw)), "alone_bytes": round(alone / len(raw))}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a lake takes on disk.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--publish", action="store_true", help="write to bench/results, not to the cache")
    options = parser.parse_args()
    rows = sorted(map(whole_hours, options.rows))
    result = {"hour": measure_hour(rows[0], options.changes), "lakes": [measure_lake(number) for number in rows]}
    print(f"Written to {save('capacity', result, publish=options.publish).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
