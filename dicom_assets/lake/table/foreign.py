"""Checks that the table at a place belongs to this project, and that this project may read and write it."""

from dicom_assets.core.columns.schema import CHANGE_FEED, SERVICE, TABLES, Table, type_names
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.table.features import Obstacle, find_obstacles
from dicom_assets.lake.table.snapshot import Snapshot


def check_is_ours(snapshot: Snapshot) -> None:
    """Check that a stored table can be read as the table that is declared.

    Raises:
        ForeignTableError: the stored table, or its users' columns, do not fit the declaration.
    """
    table, stored = snapshot.table, snapshot.schema
    _check_users_columns(snapshot)
    problem = _explain_files(snapshot)
    if snapshot.partition_columns != tuple(snapshot.scope.partition):
        problem = problem or _explain_partitions(snapshot.partition_columns, snapshot.scope)
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
        raise _not_ours(snapshot, problem)
    obstacles = _find_obstacles(snapshot)
    if not any(each.hinders_readers for each in obstacles):
        return
    if not snapshot.is_named and snapshot.protocol.reader_version > 1:
        versions = f"it needs Delta reader version {snapshot.protocol.reader_version}, and ours are of version 1"
        raise _not_ours(snapshot, versions, obstacles)
    raise _hindered(snapshot, obstacles, can_be_read=False)


def check_can_be_written(snapshot: Snapshot) -> None:
    """Check that a table of this project demands nothing of its writers that this project does not do.

    Raises:
        ForeignTableError: the table demands more. The message has the commands that remove the demands.
    """
    if obstacles := _find_obstacles(snapshot):
        raise _hindered(snapshot, obstacles, can_be_read=True)


def _find_obstacles(snapshot: Snapshot) -> list[Obstacle]:
    return find_obstacles(snapshot.protocol, f"delta.`{snapshot.uri}`")


def _hindered(snapshot: Snapshot, obstacles: list[Obstacle], *, can_be_read: bool) -> ForeignTableError:
    name = snapshot.table.name
    found = "; ".join(each.found for each in obstacles)
    reading = "It can still be read. " if can_be_read else ""
    owner = "" if snapshot.is_named else f" If it is not yours: m{_MOVE.format(name=name.upper())}"
    return ForeignTableError(
        f"The {name} table at {snapshot.uri} was changed by another engine, so that nothing is written to it any more: "
        f"{found}. Nothing was written. {reading}{_remedy(snapshot.table, obstacles)}{owner}"
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


def _not_ours(snapshot: Snapshot, problem: str, obstacles: list[Obstacle] | None = None) -> ForeignTableError:
    name = snapshot.table.name
    own = f" If it is the project's own: {_remedy(snapshot.table, obstacles)}" if obstacles else ""
    reasons = "".join(f" ({each.found})" for each in obstacles or [])
    return ForeignTableError(
        f"The table at {snapshot.uri} is not the {name} table of this project: {problem}. Nothing was written to "
        f"it{reasons}. M{_MOVE.format(name=name.upper())}{own}"
    )


def _explain_files(snapshot: Snapshot) -> str | None:
    if any(name.startswith("/") or "://" in name or name.startswith("file:") for name in snapshot.names):
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


def _check_users_columns(snapshot: Snapshot) -> None:
    """Check that each users' column has the type and the spelling with which it was added to the table."""
    table = snapshot.table
    # Only the project's own tables (TABLES) have users' columns; of any other table all columns are its own.
    own = next((one for one in TABLES if one.name == table.name), table).schema.names
    by_name = {field.name.casefold(): field for field in snapshot.schema}
    for column in table.columns:
        found = by_name.get(column.name.casefold())
        if column.name in own or found is None:
            continue
        if found.type != column.type:
            was = next((name for name, type_ in type_names.items() if type_ == found.type), str(found.type))
            what, remedy = (
                f"is of type {was} there, and {column.type_name} in the file now",
                f'set type = "{was}" again',
            )
        elif found.name != column.name:
            what, remedy = f"is called {found.name} there, and upper and lower case are one", "take that name again"
        else:
            continue
        raise ForeignTableError(
            f"The column {column.name} of DICOM_EXTRA_COLUMNS does not fit the table at {snapshot.uri}: it {what}. A "
            f"column stays as it was added, for those who read it. Nothing was written. In the file, {remedy}, or "
            "choose a name that the table has not had; materialising old hours fills it."
        )
