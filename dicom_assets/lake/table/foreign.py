"""Checks that the table at a place belongs to this project, and that this project may read and write it."""

from dicom_assets.core.columns.schema import CHANGE_FEED, SERVICE, Table
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.lake.table.features import Obstacle, find_obstacles
from dicom_assets.lake.table.scope import Scope
from dicom_assets.lake.table.snapshot import Logged
from dicom_assets.lake.table.users_columns import check_users_columns


def check_is_ours(table: Table, logged: Logged, uri: str, scope: Scope) -> None:
    """Check that a stored table can be read as a table of this project.

    Args:
        table: the expected table.
        logged: log state of the stored table.
        uri: location of the stored table.
        scope: rows of the table that are read.

    Raises:
        ForeignTableError: the stored table, or its users' columns, do not fit the expected table.
    """
    stored = logged.schema
    check_users_columns(table, stored, uri)
    problem = _explain_files(logged)
    if logged.partition_columns != tuple(scope.partition):
        problem = problem or _explain_partitions(logged.partition_columns, scope)
    for column in table.columns:
        if column.name not in stored.names:
            if not column.nullable:
                problem = problem or f"it has no column {column.name}"
        elif stored.field(column.name).type != column.type:
            found = stored.field(column.name).type
            problem = problem or f"its column {column.name} is of type {found}, not {column.type}"
        elif stored.field(column.name).nullable and not column.nullable:
            # Any table that Spark created is like this. Rows that another writer left would stay in it unnoticed.
            problem = problem or f"its column {column.name} may be null, and ours may not"
    for name in stored.names:
        if not stored.field(name).nullable and name not in table.schema.names:
            problem = problem or f"it needs a value in its column {name}, which ours do not have"
    if problem is not None:
        raise _not_ours(table, uri, problem)
    obstacles = find_obstacles(logged.protocol, _sql_name(uri))
    if not any(each.hinders_readers for each in obstacles):
        return
    if not logged.is_named(table) and logged.protocol.reader_version > 1:
        versions = f"it needs Delta reader version {logged.protocol.reader_version}, and ours are of version 1"
        raise _not_ours(table, uri, versions, obstacles)
    raise _hindered(table, logged, uri, obstacles, can_be_read=False)


def check_can_be_written(table: Table, logged: Logged, uri: str) -> None:
    """Check that a table of this project demands nothing of its writers that this project does not do.

    Raises:
        ForeignTableError: the table demands more. The message has the commands that remove the demands.
    """
    obstacles = find_obstacles(logged.protocol, _sql_name(uri))
    if obstacles:
        raise _hindered(table, logged, uri, obstacles, can_be_read=True)


def _hindered(
    table: Table, logged: Logged, uri: str, obstacles: list[Obstacle], *, can_be_read: bool
) -> ForeignTableError:
    found = "; ".join(each.found for each in obstacles)
    reading = "It can still be read. " if can_be_read else ""
    owner = "" if logged.is_named(table) else f" If it is not yours: m{_MOVE.format(name=table.name.upper())}"
    return ForeignTableError(
        f"The {table.name} table at {uri} was changed by another engine, so that nothing is written to it any more: "
        f"{found}. Nothing was written. {reading}{_remedy(table, obstacles)}{owner}"
    )


def _remedy(table: Table, obstacles: list[Obstacle]) -> str:
    if not all(each.commands for each in obstacles):
        source = "the service" if table.name == CHANGE_FEED.name else "the tables before it"
        return (
            "No command takes that off: move the table's folder away, and materialise its hours again, which fills it "
            f"anew from {source}."
        )
    commands = "; ".join(dict.fromkeys(command for each in obstacles for command in each.commands))
    later = " (before Delta 4, once more after 24 hours with TRUNCATE HISTORY)" if "DROP FEATURE" in commands else ""
    return f"To take that off, run in Spark: {commands}{later}. Then run this again."


_MOVE = "ove it away, or choose another place with DICOM_{name}_TABLE_PATH."


def _not_ours(table: Table, uri: str, problem: str, obstacles: list[Obstacle] | None = None) -> ForeignTableError:
    own = f" If it is the project's own: {_remedy(table, obstacles)}" if obstacles else ""
    told = "".join(f" ({each.found})" for each in obstacles or [])
    return ForeignTableError(
        f"The table at {uri} is not the {table.name} table of this project: {problem}. Nothing was written to "
        f"it{told}. M{_MOVE.format(name=table.name.upper())}{own}"
    )


def _sql_name(uri: str) -> str:
    return f"delta.`{uri}`"


def _explain_files(logged: Logged) -> str | None:
    if any(name.startswith("/") or "://" in name or name.startswith("file:") for name in logged.names):
        return "files of it lie elsewhere, as those of a shallow clone do"
    return None


def _explain_partitions(found: tuple[str, ...], scope: Scope) -> str:
    """Return the reason why the partitions of a table do not fit."""
    if scope.is_shared and not found:
        return (
            f"it has the rows of one service, and no partitions by {SERVICE.name}, as tables have that several "
            "services share"
        )
    if not scope.is_shared and found == (SERVICE.name,):
        return 'several services share it, which is said by tables = "shared" in the file that DICOM_SERVICES names'
    if scope.is_shared:
        return f"it is partitioned by {', '.join(found)}, and not by {SERVICE.name}"
    return "it is partitioned, and ours are not"
