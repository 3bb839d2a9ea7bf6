"""The rows that changed in a table, for those who keep something in step with it."""

from datetime import datetime

from dicom_assets.adapters.table_changes import TableChanges, open_changes
from dicom_assets.connections import build_lake
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.schema import Table
from dicom_assets.services import load_service
from dicom_assets.settings import Settings


def find_table(settings: Settings, name: str) -> Table:
    """The table of this name, with the users' columns.

    Raises:
        SettingsError: there is none.
    """
    tables = {table.name: table for table in settings.tables}
    if name not in tables:
        raise SettingsError(f"There is no table {name}. Tables are {', '.join(tables)}.")
    return tables[name]


def changes(
    table: str = "instance",
    since: int | datetime | None = None,
    *,
    until: int | datetime | None = None,
    settings: Settings | None = None,
) -> TableChanges:
    """The rows of a table that were inserted, updated and deleted from one version to another: the net change.

    Each key is in it at most once, with what became of it in `_change_type`: `insert`, `update_postimage` or `delete`
    (the row as it was). `_commit_version` is the version that the changes lead to. Take `.version` as `since` of the
    next call, once the changes are stored.

    Args:
        table: its name: `change_feed`, `instance`, `series`, `study` or `file_index`.
        since: the version that the caller's copy is of; or a time, for the version that was the newest then; None to
            begin with all rows, as inserts.
        until: likewise, where the changes are to end; by default at the newest version.
        settings: those of the environment by default; of several services those of one, by `load_service(name)`.

    Returns:
        An iterable of Arrow batches, which pyarrow, Polars and DuckDB also take as it is. Memory does not grow with
        the table: see `dicom_assets.adapters.table_changes`.

    Raises:
        VersionGoneError: `since` is too old: load the table anew.
        LakeError: there is no such table, or storage refuses.
        SettingsError: there is no table of that name.
    """
    for moment in (since, until):
        if isinstance(moment, datetime) and moment.tzinfo is None:
            raise ValueError("a time needs a zone, such as datetime(2026, 3, 1, tzinfo=UTC)")
    chosen = settings or load_service()
    return open_changes(build_lake(chosen), find_table(chosen, table), since, until)
