"""Row changes of a table, for programs that keep a copy of the table up to date."""

from datetime import datetime

from dicom_assets.config.connections import build_lake
from dicom_assets.config.services import load_service
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import Table
from dicom_assets.core.errors import SettingsError
from dicom_assets.lake.table_changes import TableChanges, open_changes


def find_table(settings: Settings, name: str) -> Table:
    """Return the table with a name, including the users' columns.

    Raises:
        SettingsError: no table has this name.
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
    """Return the net changes of a table between two versions: the inserted, updated and deleted rows.

    Each key occurs at most once. `_change_type` is `insert`, `update_postimage` (the row of the newer version) or
    `delete` (the row of the older version). `_commit_version` is the version that the changes lead to. After storing
    the changes, pass `.version` as `since` to the next call.

    Args:
        table: name of the table: `change_feed`, `instance`, `series`, `study` or `file_index`.
        since: version of the caller's copy; or a time with a time zone, which means the newest version at that time;
            or None, which gives all rows as inserts.
        until: version, or time with a time zone, at which the changes end; by default the newest version.
        settings: settings; by default read from the environment. If there are several services, pass the settings of
            one: `load_service(name)`.

    Returns:
        An iterable of Arrow batches, which pyarrow, Polars and DuckDB accept directly. Memory does not grow with the
        table: see `dicom_assets.lake.table_changes`.

    Raises:
        ValueError: a time has no time zone.
        VersionGoneError: `since` is too old: load the whole table again.
        LakeError: the table does not exist in the lake, or storage refuses the request.
        SettingsError: no table has this name.
    """
    for moment in (since, until):
        if isinstance(moment, datetime) and moment.tzinfo is None:
            raise ValueError("a time needs a zone, such as datetime(2026, 3, 1, tzinfo=UTC)")
    chosen = settings or load_service()
    return open_changes(build_lake(chosen), find_table(chosen, table), since, until)
