"""Comparison of the lake's tables with their sources: for the studies that a run touched, or for all studies.

Only keys and counts are read, file by file, from the files that hold the studies. So the cost of a run's check depends
on the studies that the run touched, and not on the size of the lake.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, TABLES, Table
from dicom_assets.core.tables.comparison import (
    Agreement,
    add_up,
    compare_files,
    compare_rows,
    count_by_series,
    expect_series,
    expect_studies,
    find_disagreeing_studies,
)
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.core.tables.instance import find_newest_entries, is_live
from dicom_assets.core.tables.merge import Desired, key_ids
from dicom_assets.derive.feed_window import count_values, holds
from dicom_assets.lake.files.parquet import ROWS_PER_FILE
from dicom_assets.lake.table.delta import Lake

FILES_AT_ONCE = 25
"""Files whose studies an audit compares together."""
ROWS_AT_ONCE = FILES_AT_ONCE * ROWS_PER_FILE
"""Greatest number of rows whose keys an audit holds in memory, unless one study has more."""

_UID = "studyInstanceUid"
_DECIDING = (*INSTANCE.key, "sequence", "timestamp", "ingestedAt", "action", "state")


def compare_touched(lake: Lake, keys: pa.Table, table: Table) -> tuple[Agreement, Agreement]:
    """Compare a table with `instance`, for the studies of some keys.

    Args:
        lake: the lake of both tables.
        keys: keys of the table, such as the keys that changed in some hours.
        table: `series`, `study` or `file_index`.

    Returns:
        The agreement of the rows of these keys, then the agreement of all rows of the keys' studies. The second may be
        worse, since other rows may belong to hours that have not been run.
    """
    own = key_ids(keys, table.key)

    def is_own(rows: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(key_ids(rows, table.key), value_set=own)

    studies = pc.unique(keys[_UID])
    if table.name == FILE_INDEX.name:
        of_own, of_all = (compare_files(*counts) for counts in zip(*_count_files(lake, studies, is_own), strict=True))
        return of_own, of_all
    expected, actual = _read_counts(lake, table, studies)
    of_own = compare_rows(expected.filter(is_own(expected)), actual.filter(is_own(actual)), table.key)
    return of_own, compare_rows(expected, actual, table.key)


def compare_instances(lake: Lake, derived: Desired, table: Table = INSTANCE) -> Agreement:
    """Compare `instance`, or another table of live instances, with the rows that were derived for some keys."""
    own = key_ids(derived.keys, table.key)
    columns = tuple(derived.keys.column_names)
    stored = _read_table(lake, table, columns, pc.unique(derived.keys[table.study]))
    stored = stored.filter(pc.is_in(key_ids(stored, table.key), value_set=own))
    return compare_rows(derived.rows.select(columns), stored, table.key)


def audit(lake: Lake, tables: Sequence[Table] = TABLES) -> dict[str, Agreement]:
    """Compare all rows of each table: tables of live instances with `change_feed`, other tables with `instance`.

    In `change_feed` itself, sequences with more than one row are counted. Studies of one group of files are compared
    together. So each file is read only a few times, and memory holds the keys of some files at a time, whatever the
    size of the lake.

    Args:
        lake: the lake of the tables.
        tables: all tables that the lake has.

    Returns:
        The agreement by name of table.
    """
    found = {table.name: Agreement() for table in tables}
    for studies in _groups_of_studies(lake, tables):
        for table, expected, actual in _read_pairs(lake, tables, studies):
            is_counted = table.name == FILE_INDEX.name
            found[table.name] += (
                compare_files(expected, actual) if is_counted else compare_rows(expected, actual, table.key)
            )
    return found


def find_disagreeing(lake: Lake, tables: Sequence[Table] = TABLES) -> dict[str, pa.Array]:
    """Return the UIDs of the studies in which a table disagrees with its source, by name of table.

    For `change_feed`, these are the studies with an entry that has more than one row. The comparison is that of
    `audit`, and costs as much.
    """
    found: dict[str, list[pa.Array]] = {table.name: [pa.array([], pa.string())] for table in tables}
    for studies in _groups_of_studies(lake, tables):
        for table, expected, actual in _read_pairs(lake, tables, studies):
            found[table.name].append(find_disagreeing_studies(expected, actual, table.study))
    return {name: pa.concat_arrays(parts) for name, parts in found.items()}


def _groups_of_studies(lake: Lake, tables: Sequence[Table]) -> Iterator[pa.Array]:
    """Yield the UIDs of all studies of all tables, each once, in groups of studies that share files."""
    done: set[str] = set()
    for snapshot in filter(None, map(lake.open, tables)):
        uid = snapshot.table.study
        files = sorted(snapshot.files, key=lambda file: file.written_at)
        for place in range(0, len(files), FILES_AT_ONCE):
            sizes: Counter[str] = Counter()
            for _, rows in snapshot.read([uid], files=files[place : place + FILES_AT_ONCE]):
                sizes.update(count_values(rows[uid]))
            yield from _group_by_size({study: size for study, size in sizes.items() if study not in done})
            done |= sizes.keys()


def _group_by_size(sizes: dict[str, int]) -> Iterator[pa.Array]:
    """Yield studies in groups of at most `ROWS_AT_ONCE` rows; a study with more rows is a group by itself.

    A file that another engine wrote may have more rows than files of this project.

    Args:
        sizes: number of rows by study.
    """
    held: list[str] = []
    rows = 0
    for study in sorted(sizes):
        if held and rows + sizes[study] > ROWS_AT_ONCE:
            yield pa.array(held, pa.string())
            held, rows = [], 0
        held.append(study)
        rows += sizes[study]
    if held:
        yield pa.array(held, pa.string())


def _read_pairs(lake: Lake, tables: Sequence[Table], studies: pa.Array) -> Iterator[tuple[Table, pa.Table, pa.Table]]:
    """Yield each table with its expected and its stored rows, for some studies.

    For tables of live instances, the newest entry of each instance decides whether a row is expected, and with which
    sequence; or with which time, if the table has no sequence.
    """
    entries = _read_table(lake, CHANGE_FEED, _DECIDING, studies)
    names = [*INSTANCE.key, "sequence"]
    once = entries.group_by(names).aggregate([]).select(names)
    yield CHANGE_FEED, once, entries.select(once.column_names)
    newest = find_newest_entries(entries)
    live = newest.filter(is_live(newest))

    def decided(table: Table, column: str, by: str) -> tuple[pa.Table, pa.Table]:
        names = (*table.key, column)
        return live.select([*INSTANCE.key, by]).rename_columns(names), _read_table(lake, table, names, studies)

    yield INSTANCE, *decided(INSTANCE, "sequence", "sequence")
    if HEALTHCARE_INSTANCE in tables:
        yield HEALTHCARE_INSTANCE, *decided(HEALTHCARE_INSTANCE, "lastModifiedTimestamp", "timestamp")
    for table in (SERIES, STUDY):
        yield table, *_read_counts(lake, table, studies)
    yield FILE_INDEX, *_read_files(lake, studies)


def _read_counts(lake: Lake, table: Table, studies: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Return the expected and the stored keys and counts of `series` or `study`, for some studies."""
    counts = add_up(map(count_by_series, _read(lake, INSTANCE, (*SERIES.key, "sequence"), studies)))
    expected = expect_series(counts) if table.name == SERIES.name else expect_studies(counts)
    return expected, _read_table(lake, table, tuple(expected.column_names), studies)


def _count_files(
    lake: Lake, studies: pa.Array, is_own: Callable[[pa.Table], pa.ChunkedArray]
) -> tuple[tuple[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]:
    """Return the expected and the stored numbers of files by series, each first for own rows, then for all rows."""

    def count(table: Table, columns: tuple[str, ...]) -> tuple[pa.Table, pa.Table]:
        own, whole = [], []
        for rows in _read(lake, table, columns, studies):
            files = rows.filter(pc.is_valid(rows[columns[-1]]))
            own.append(count_by_series(files.filter(is_own(files))))
            whole.append(count_by_series(files))
        return add_up(own), add_up(whole)

    columns = (*INSTANCE.key, "sequence")
    return count(INSTANCE, (*columns, "filePath")), count(FILE_INDEX, columns)


def _read_files(lake: Lake, studies: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Return the expected and the stored numbers of files by series of `file_index`, for some studies."""
    columns = (*SERIES.key, "sequence")
    instances = _read(lake, INSTANCE, (*columns, "filePath"), studies)
    expected = add_up(count_by_series(rows.filter(pc.is_valid(rows["filePath"]))) for rows in instances)
    return expected, add_up(map(count_by_series, _read(lake, FILE_INDEX, columns, studies)))


def _read_table(lake: Lake, table: Table, columns: tuple[str, ...], studies: pa.Array) -> pa.Table:
    schema = pa.schema([(name, table[name].type) for name in columns])
    return pa.concat_tables(
        [schema.empty_table(), *(rows.cast(schema) for rows in _read(lake, table, columns, studies))]
    )


def _read(lake: Lake, table: Table, columns: tuple[str, ...], studies: pa.Array) -> Iterator[pa.Table]:
    """Yield the rows of some studies, file by file; no rows if the table does not exist."""
    snapshot = lake.open(table)
    if snapshot is not None:
        of_studies = partial(holds, column=table.study, values=studies)
        for _, rows in snapshot.read(columns, files=snapshot.files_of_studies(studies), where=of_studies):
            yield rows
