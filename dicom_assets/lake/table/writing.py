"""Arguments and results of a write: a derivation of desired rows, and the effect of its attempts."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Protocol

import pyarrow as pa

from dicom_assets.core.columns.schema import Table
from dicom_assets.core.tables.merge import Desired, align_rows
from dicom_assets.lake.files.parquet import EncodedRows


class Derivation(Protocol):
    """The desired rows of a table, as a function of source tables."""

    def build(self) -> Desired | EncodedRows:
        """Return the desired rows from the current versions of the sources."""
        ...

    def is_current(self) -> bool:
        """Return whether the sources are unchanged since the last `build`."""
        ...


@dataclass(frozen=True)
class FixedRows:
    """A derivation without sources, of rows that are known."""

    rows: pa.Table
    table: Table
    attributes: pa.Table | None = None
    """Attributes from the rows' metadata, one row for each of `rows` in the same order; None if not decoded yet."""

    def build(self) -> Desired:
        """Return the rows, each key once, in the table's columns and types."""
        rows = align_rows(self.rows, self.table.schema)
        return Desired(rows.select(self.table.merge_columns), rows, self.attributes)

    def is_current(self) -> bool:
        """Return True: a derivation without sources cannot become outdated."""
        return True


class Stopwatch(dict[str, float]):
    """Seconds by stage."""

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to the stage's seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - began})

    def add(self, other: Mapping[str, float]) -> None:
        """Add other seconds by stage."""
        for stage, seconds in other.items():
            self[stage] = self.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class Effect:
    """Result of some attempts to write a table."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    commits: int = 0
    conflicts: int = 0
    """Commits that other writers won; each was retried."""
    bytes_written: int = 0

    def __add__(self, other: "Effect") -> "Effect":
        return Effect(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Effect)))


@dataclass(frozen=True)
class Written(Effect):
    """Result of a write, and the size of the table after it."""

    version: int = 0
    row_count: int = 0
    """Rows in the table."""
    size_bytes: int = 0
    """Size of the table's live files."""
    file_count: int = 0
    seconds: Stopwatch = field(default_factory=Stopwatch)
    """Seconds by stage: derive, merge, commit, join (of small files). Lost attempts count too."""
    table_id: str = ""
    """ID that the table got when it was created."""
