"""Inputs of assets: a table's rows for the hours of a run, in the type that the asset's parameter is annotated with.

A row belongs to the hour of its `windowStart` or, in a table without that column, of its `lastModifiedTimestamp`.
pandas and polars are installed by the user; each is imported only where an asset takes one of its types.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import SERVICE, Table
from dicom_assets.core.tables.change_feed import HOUR, Window
from dicom_assets.defs.partitions import parse_hours, to_window
from dicom_assets.derive.feed_window import FeedWindow, is_within
from dicom_assets.lake.files.data_file import DataFile
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.snapshot import Snapshot, read_names

Windows = Sequence[Window] | None
"""Windows whose rows are loaded, in order; None for the whole table, and none at all for no row."""


def load_table(context: dg.InputContext, lake: Lake, table: Table) -> Any:
    """Return the input's rows of a table, in the annotated type; a table that does not exist yet has no rows.

    Raises:
        DagsterInvariantViolationError: The annotation is none of `LOADERS`, its package is missing, or it asks for
            hours where the input has none.
        LakeUnavailableError: Storage refuses.
    """
    annotation = context.dagster_type.typing_type
    if annotation is FeedWindow:
        if not context.has_asset_partitions:
            raise dg.DagsterInvariantViolationError(f"FeedWindow {table.name} needs an asset with hourly partitions.")
        return FeedWindow(lake, to_window(context.asset_partitions_time_window))
    name = "pyarrow.Table" if annotation in (Any, object) else _name_type(annotation)
    if name not in LOADERS:
        raise dg.DagsterInvariantViolationError(
            f"The input {context.name} is annotated with {annotation}, and {_describe(context)} cannot be loaded as "
            f"that. Annotate one of {', '.join(LOADERS)}; or take no value (`deps=` instead of a parameter), and open "
            f"the Delta table at {lake.uri(table)}."
        )
    try:
        return LOADERS[name](lake, table, find_windows(context))
    except ImportError as error:
        extra = name.partition(".")[0]
        raise dg.DagsterInvariantViolationError(
            f"The input {context.name} takes {_describe(context)} as {name}, and {extra} cannot be imported in this "
            f"process: {error}. Install it with `pip install 'dicom-assets[{extra}]'`."
        ) from error


def find_windows(context: dg.InputContext) -> Windows:
    """Return the input's hours as windows, adjacent hours as one; None where the input covers all hours.

    Hours that the partition mapping allows not to exist are left out.
    """
    if not context.has_asset_partitions:
        return None
    keys = context.asset_partition_keys
    if len(keys) == context.asset_partitions_def.get_num_partitions():
        return None
    windows: list[Window] = []
    for hour in sorted(parse_hours(keys)):
        is_next = windows and windows[-1].end == hour
        start = windows.pop().start if is_next else hour
        windows.append(Window(start, hour + HOUR))
    return windows


def _stream(lake: Lake, table: Table, windows: Windows) -> pa.RecordBatchReader:
    """Return the rows, read one file at a time."""
    snapshot = lake.open(table)
    if snapshot is None or windows == []:
        return (table.schema if snapshot is None else snapshot.schema).empty_table().to_reader()
    column = _hour_column(table)

    def is_wanted(rows: pa.Table) -> pa.ChunkedArray:
        return reduce(pc.or_, (is_within(rows[column], window) for window in windows or ()))

    files = _find_files(snapshot, windows[0].start, windows[-1].end) if windows else None
    parts = snapshot.read(files=files, where=is_wanted if windows else None)
    return pa.RecordBatchReader.from_batches(
        snapshot.schema, (batch for _, rows in parts for batch in rows.to_batches())
    )


def _find_files(snapshot: Snapshot, start: datetime, end: datetime) -> list[DataFile]:
    """Return the files that may hold a row of some hours, by the ranges in the log; `end` is exclusive."""
    actions, column = snapshot.actions, _hour_column(snapshot.table)
    if not {f"min.{column}", f"max.{column}"} <= set(actions.column_names):
        return list(snapshot.files)
    is_possible = pc.and_(pc.less(actions[f"min.{column}"], end), pc.greater_equal(actions[f"max.{column}"], start))
    names = read_names(actions.filter(pc.fill_null(is_possible, True)))
    return [file for file in snapshot.files if file.name in names]


def _read(lake: Lake, table: Table, windows: Windows) -> pa.Table:
    return _stream(lake, table, windows).read_all()


def _read_pandas(lake: Lake, table: Table, windows: Windows) -> Any:
    return _read(lake, table, windows).to_pandas()


def _read_polars(lake: Lake, table: Table, windows: Windows) -> Any:
    import polars as pl

    return pl.from_arrow(_read(lake, table, windows))


def _scan_polars(lake: Lake, table: Table, windows: Windows) -> Any:
    import polars as pl

    snapshot = lake.open(table)
    if snapshot is None:
        return pl.LazyFrame(pl.from_arrow(table.schema.empty_table()))
    frame = pl.scan_delta(snapshot.connect())
    if snapshot.scope.is_shared:
        frame = frame.filter(pl.col(SERVICE.name) == snapshot.scope.service).drop(SERVICE.name)
    if windows is None:
        return frame
    time = pl.col(_hour_column(table))
    hours = (time.is_between(window.start, window.end, closed="left") for window in windows)
    return frame.filter(reduce(or_, hours, pl.lit(False)))


def _connect(lake: Lake, table: Table, _: Windows) -> Any:
    """Return the whole table, with the rows of all services that share it."""
    return lake.open_or_create(table).connect()


LOADERS: dict[str, Callable[[Lake, Table, Windows], Any]] = {
    "pyarrow.Table": _read,
    "pyarrow.RecordBatchReader": _stream,
    "pandas.DataFrame": _read_pandas,
    "polars.DataFrame": _read_polars,
    "polars.LazyFrame": _scan_polars,
    "deltalake.DeltaTable": _connect,
}
"""Functions that load a table's rows, by the annotated type."""


def _name_type(annotation: Any) -> str:
    """Return a type's name after its package: pandas and polars need not be imported to recognise their types."""
    package = str(getattr(annotation, "__module__", "")).partition(".")[0]
    return f"{package}.{getattr(annotation, '__name__', annotation)}"


def _describe(context: dg.InputContext) -> str:
    return f"the table of the asset {context.asset_key.to_user_string()}"


def _hour_column(table: Table) -> str:
    return table.hour or "lastModifiedTimestamp"
