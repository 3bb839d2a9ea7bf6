"""Whether a contender's table is right: every live instance once, with its newest file, and nothing else."""

from pathlib import Path

import duckdb
import pyarrow.dataset as ds
from deltalake import DeltaTable

from bench.feed import Feed, digest_of
from dicom_assets.core.columns.schema import TABLES, Table


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


def digest_tables(lake: Path) -> dict[str, str]:
    """Number and digest of each table's rows, which depend on neither order nor files."""
    return {table.name: _digest(lake / table.name, table) for table in TABLES}


def _digest(path: Path, table: Table) -> str:
    columns = ", ".join(f'"{name}"' for name in table.schema.names if name not in table.ignored)
    found = duckdb.sql(
        f"SELECT count(*), coalesce(sum(hash({columns})::HUGEINT), 0) FROM read_parquet($1)",
        params=[DeltaTable(path).file_uris()],
    ).fetchone()
    assert found is not None
    return f"{found[0]}:{found[1]}"


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
