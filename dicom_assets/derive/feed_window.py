"""Stored entries of a window of the change feed: which keys changed in it, and its parts by study."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.tables.change_feed import Window
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot


@dataclass(frozen=True)
class FeedWindow:
    """Stored entries of a window, of all studies or of some. A method reads the lake; nothing is read before."""

    lake: Lake
    window: Window
    studies: pa.Array | None = None
    """UIDs of the studies whose entries are meant; None for all studies."""

    def split(self, entries: int) -> "Iterator[FeedWindow]":
        """Split by study into parts of about `entries` entries; a study is never split.

        A study whose entries are stored after this call is in no part: the writer of these entries derives it.
        """
        feed = self.lake.open(CHANGE_FEED)
        files = [] if feed is None else feed.files_of_hours(self.window.start, self.window.end)
        if feed is None or sum(file.rows for file in files) <= entries:
            yield self
            return
        sizes: Counter[str] = Counter()
        belongs = partial(_belongs, window=self.window, studies=self.studies)
        for _, rows in feed.read(("studyInstanceUid", "windowStart"), files=files, where=belongs):
            sizes.update(count_values(rows["studyInstanceUid"]))
        held, size = [], 0
        for study, count in sizes.items():
            held.append(study)
            size += count
            if size >= entries:
                yield replace(self, studies=pa.array(held))
                held, size = [], 0
        if held:
            yield replace(self, studies=pa.array(held))

    def changed_keys(self, key: tuple[str, ...]) -> pa.Table:
        """Return the keys of the entries, each once."""
        feed = self.lake.open(CHANGE_FEED)
        if feed is None:
            return pa.schema([CHANGE_FEED.schema.field(name) for name in key]).empty_table()
        rows = read_window(feed, self.window, (*key, "windowStart"), self.studies)
        return rows.select(key).group_by(list(key)).aggregate([])


def read_window(
    feed: Snapshot, window: Window, columns: tuple[str, ...] | None = None, studies: pa.Array | None = None
) -> pa.Table:
    """Return the window's rows of `change_feed`.

    Args:
        feed: a version of `change_feed`.
        window: the hours.
        columns: names, with `windowStart` among them; None for all columns.
        studies: UIDs of the studies whose rows are read; None for all studies.
    """
    files = feed.files_of_hours(window.start, window.end)
    return feed.read_table(columns, files=files, where=partial(_belongs, window=window, studies=studies))


def is_within(times: pa.ChunkedArray, window: Window) -> pa.ChunkedArray:
    """Return for each time whether it lies in the window."""
    start, end = (pa.scalar(time, times.type) for time in (window.start, window.end))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))


def holds(rows: pa.Table, column: str, values: pa.Array) -> pa.ChunkedArray:
    """Return for each row whether its value of the column is one of the values."""
    return pc.is_in(rows[column], value_set=values)


def count_values(values: pa.ChunkedArray) -> Counter[Any]:
    """Return the number of occurrences of each value, in the order of first occurrence."""
    return Counter({each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()})


def _belongs(rows: pa.Table, window: Window, studies: pa.Array | None) -> pa.ChunkedArray:
    inside = is_within(rows["windowStart"], window)
    return inside if studies is None else pc.and_(inside, holds(rows, "studyInstanceUid", studies))
