"""The lake's tables held against one another: for the studies that a run touched, or for all of them.

Only keys and counts are read, file by file, from the files that hold the studies in question. So the check of a run
costs what the run touched, however large the lake is.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.adapters.delta import Lake
from dicom_assets.core.agreement import (
    Agreement,
    add_up,
    compare_files,
    compare_rows,
    count_by_series,
    count_doubled,
    disagreeing_studies,
    expect_series,
    expect_studies,
)
from dicom_assets.core.instance import is_live, newest_entries
from dicom_assets.core.merge import Desired, key_ids
from dicom_assets.core.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, TABLES, Table

FILES_AT_ONCE = 25
"""Files whose studies an audit holds together: about half a million rows, of which it reads the keys."""

_UID = "studyInstanceUid"
_DECIDING = (*INSTANCE.key, "sequence", "ingestedAt", "action", "state")


def compare_touched(lake: Lake, keys: pa.Table, table: Table) -> tuple[Agreement, Agreement]:
    """How a table agrees with `instance`, for the studies of some of its keys.

    Args:
        lake: the tables.
        keys: of the table, such as those that changed in some hours.
        table: `series`, `study` or `file_index`.

    Returns:
        The agreement of the rows of these keys, and that of all rows of the same studies: others may belong to hours
        that have not been run.
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
    """How `instance`, or another table of live instances, agrees with what was derived for some of its keys."""
    own = key_ids(derived.keys, table.key)
    columns = tuple(derived.keys.column_names)
    stored = _read_table(lake, table, columns, pc.unique(derived.keys[table.study]))
    stored = stored.filter(pc.is_in(key_ids(stored, table.key), value_set=own))
    return compare_rows(derived.rows.select(columns), stored, table.key)


def audit(lake: Lake) -> dict[str, Agreement]:
    """How all rows agree, by table: of `instance` with `change_feed`, of those after it with `instance`.

    Of `change_feed` itself it is found whether a sequence has more than one row. Studies are looked at together that
    lie in the same files, so that each file is read a few times at most, and memory holds the keys of some files at a
    time, whatever the size of the lake.
    """
    found = {table.name: Agreement() for table in TABLES}
    for studies in _groups_of_studies(lake):
        feed, instances = _compare_with_feed(lake, studies)
        found[CHANGE_FEED.name] += feed
        found[INSTANCE.name] += instances
        found[FILE_INDEX.name] += compare_files(*_read_files(lake, studies))
        for table in (SERIES, STUDY):
            found[table.name] += compare_rows(*_read_counts(lake, table, studies), table.key)
    return found


def find_disagreeing(lake: Lake) -> dict[str, pa.Array]:
    """UIDs of the studies in which a table does not agree with what it is made from, by table.

    Of `change_feed` those with an entry that has more than one row. What an audit counts, told by study; it costs the
    same.
    """
    found: dict[str, list[pa.Array]] = {table.name: [pa.array([], pa.string())] for table in TABLES}
    for studies in _groups_of_studies(lake):
        entries, live, instances = _read_law(lake, studies)
        once = entries.group_by([_UID, "sequence"]).aggregate([]).select([_UID, "sequence"])
        pairs = {
            CHANGE_FEED.name: (once, entries.select(once.column_names)),
            INSTANCE.name: (live, instances),
            **{table.name: _read_counts(lake, table, studies) for table in (SERIES, STUDY)},
            FILE_INDEX.name: _read_files(lake, studies),
        }
        for name, pair in pairs.items():
            found[name].append(disagreeing_studies(*pair))
    return {name: pa.concat_arrays(parts) for name, parts in found.items()}


def _groups_of_studies(lake: Lake) -> Iterator[pa.Array]:
    """Every study of any table once, in groups that lie in the same files."""
    done: set[str] = set()
    for snapshot in filter(None, map(lake.open, TABLES)):
        files = sorted(snapshot.files, key=lambda file: file.written_at)
        for place in range(0, len(files), FILES_AT_ONCE):
            group = snapshot.read([_UID], files=files[place : place + FILES_AT_ONCE])
            new = {uid for _, rows in group for uid in pc.unique(rows[_UID]).to_pylist()} - done
            done |= new
            if new:
                yield pa.array(sorted(new), pa.string())


def _compare_with_feed(lake: Lake, studies: pa.Array) -> tuple[Agreement, Agreement]:
    """The law itself: of every instance the newest entry decides whether there is a row, and of which sequence."""
    entries, live, rows = _read_law(lake, studies)
    return count_doubled([entries], CHANGE_FEED.key), compare_rows(live, rows, INSTANCE.key)


def _read_law(lake: Lake, studies: pa.Array) -> tuple[pa.Table, pa.Table, pa.Table]:
    """For some studies all entries, the keys and sequences that `instance` ought to hold, and those that it holds."""
    entries = _read_table(lake, CHANGE_FEED, _DECIDING, studies)
    newest = newest_entries(entries)
    live = newest.filter(is_live(newest)).select([*INSTANCE.key, "sequence"])
    return entries, live, _read_table(lake, INSTANCE, tuple(live.column_names), studies)


def _read_counts(lake: Lake, table: Table, studies: pa.Array) -> tuple[pa.Table, pa.Table]:
    """For some studies the keys and counts that `series` or `study` ought to hold, and those that it holds."""
    counts = add_up(map(count_by_series, _read(lake, INSTANCE, (*SERIES.key, "sequence"), studies)))
    expected = expect_series(counts) if table.name == SERIES.name else expect_studies(counts)
    return expected, _read_table(lake, table, tuple(expected.column_names), studies)


def _count_files(
    lake: Lake, studies: pa.Array, is_own: Callable[[pa.Table], pa.ChunkedArray]
) -> tuple[tuple[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]:
    """Files by series that `file_index` ought to hold for some studies, and that it holds: own ones, and all."""

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
    """For some studies the files by series that `file_index` ought to hold, and those that it holds."""
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
    """The rows of some studies, file by file; none where the table does not exist."""
    snapshot = lake.open(table)
    if snapshot is not None:
        files = snapshot.files_of_studies(studies)

        def concerns(rows: pa.Table) -> pa.ChunkedArray:
            return pc.is_in(rows[table.study], value_set=studies)

        for _, rows in snapshot.read(columns, files=files, where=concerns):
            yield rows
