"""Live files whose dates Spark 3.5 refuses, since no key in their footer names the calendar (`parquet.CALENDAR`).

Earlier versions of this project, or another engine's compaction, wrote such files. Rewriting a file adds the key. A
file without ancient dates is read without the key too, so it stays.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.files.parquet import CALENDAR_KEY
from dicom_assets.lake.table.snapshot import Snapshot

FIRST_DATE = date(1582, 10, 15)
FIRST_TIME = datetime(1900, 1, 1, tzinfo=UTC)
"""First date and time from which values are equal in the Julian and the Gregorian calendar. For times Spark uses the
first that is equal in every time zone."""
_FOOTERS_AT_ONCE = 8


def find_refused(snapshot: Snapshot) -> list[DataFile]:
    """Return the live files that Spark 3.5 refuses to read.

    The log's statistics rule out most files. The footers of the others are read, a few at a time.
    """
    candidates = _choose_candidates(snapshot)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        footers = pool.map(snapshot.folder.read_footer, candidates)
        return [file for file, footer in zip(candidates, footers, strict=True) if _is_refused(footer)]


def _choose_candidates(snapshot: Snapshot) -> Sequence[DataFile]:
    """Return the files that have an ancient date by the log's statistics, or may have one since statistics are missing.

    An ancient date or time is one before FIRST_DATE or FIRST_TIME.
    """
    may_be_ancient = pa.array([False] * len(snapshot.files), pa.bool_())
    for field in snapshot.schema:
        if (first := _find_first(field.type)) is not None:
            may_be_ancient = pc.or_(may_be_ancient, _may_precede(snapshot.actions, field, first))
    return [file for file, wanted in zip(snapshot.files, may_be_ancient.to_pylist(), strict=True) if wanted]


def _may_precede(actions: pa.Table, field: pa.Field, first: pa.Scalar) -> pa.ChunkedArray:
    """Return for each file whether a value of the column may be earlier than the first that both calendars share."""
    rows = actions["num_records"]
    least = _read_statistic(actions, f"min.{field.name}", field.type)
    nulls = _read_statistic(actions, f"null_count.{field.name}", rows.type)
    has_no_value = pc.fill_null(pc.equal(nulls, rows), False)
    return pc.and_not(pc.fill_null(pc.less(least, first), True), has_no_value)


def _read_statistic(actions: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in actions.column_names:
        return pa.chunked_array([pa.nulls(len(actions), kind)])
    return actions[name].cast(kind)


def _is_refused(footer: pq.FileMetaData) -> bool:
    """Return whether Spark 3.5 refuses a file: its footer names no calendar, and it has or may have an ancient date."""
    if CALENDAR_KEY.encode() in (footer.metadata or {}):
        return False
    schema = footer.schema.to_arrow_schema()
    for place in range(footer.num_columns):
        name = footer.schema.column(place).path
        first = _find_first(schema.field(name).type) if name in schema.names else None
        if first is None:
            continue
        chunks = [footer.row_group(group).column(place) for group in range(footer.num_row_groups)]
        if any(_holds_before(chunk, first) for chunk in chunks):
            return True
    return False


def _holds_before(chunk: pq.ColumnChunkMetaData, first: pa.Scalar) -> bool:
    statistics = chunk.statistics
    if statistics is None:
        return bool(chunk.num_values)
    if not statistics.has_min_max:
        return bool(statistics.num_values)
    return bool(statistics.min_raw < first.value)


def _find_first(kind: pa.DataType) -> pa.Scalar | None:
    """Return the first value of a type that both calendars share; None for a type without a calendar."""
    if pa.types.is_date(kind):
        return pa.scalar(FIRST_DATE, kind)
    return pa.scalar(FIRST_TIME, kind) if pa.types.is_timestamp(kind) else None
