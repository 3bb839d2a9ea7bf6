"""Whether a contender's table is right: every live instance once, with its newest file, and nothing else."""

from pathlib import Path

import pyarrow.dataset as ds
from deltalake import DeltaTable

from bench.feed import Feed, digest_of


def expected_counts(feed: Feed) -> dict[str, int]:
    """Rows that the tables must have when all of the feed was read."""
    return {
        "instance": feed.instances,
        "series": feed.series,
        "study": feed.studies,
        "file_index": feed.instances,
    }


def count_rows(lake: Path) -> dict[str, int]:
    """Rows that they have."""
    return {name: int(_dataset(lake / name).count_rows()) for name in ("instance", "series", "study", "file_index")}


def is_correct(folder: Path, feed: Feed, tables: int) -> bool:
    """Whether the lake in the folder is as the feed says; of five tables the rows of all are counted."""
    lake = folder / "lake" if (folder / "lake").is_dir() else folder
    if tables > 1 and count_rows(lake) != expected_counts(feed):
        return False
    rows = _dataset(lake / "instance")
    names = {name.replace("_", "").lower(): name for name in rows.schema.names}
    columns = rows.to_table([names["sopinstanceuid"], names["filepath"]], use_threads=False)
    pairs = list(zip(*(column.to_pylist() for column in columns), strict=True))
    return len(pairs) == feed.instances and digest_of(iter(pairs)) == feed.digest


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, hidden ones included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _dataset(path: Path) -> ds.Dataset:
    return ds.dataset(DeltaTable(path).file_uris(), format="parquet")
