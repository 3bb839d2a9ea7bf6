"""Whether what lies at the place of a table is a table of ours."""

from dicom_assets.adapters.snapshot import Logged
from dicom_assets.adapters.users_columns import check_users_columns
from dicom_assets.core.errors import ForeignTableError
from dicom_assets.core.schema import SERVICE, Table


def check_is_ours(table: Table, logged: Logged, uri: str, service: str | None) -> None:
    """Whether a table can be read and written as one of ours.

    Args:
        table: that it ought to be.
        logged: what its log says.
        uri: where it lies.
        service: whose rows are meant, where several services share it.

    Raises:
        ForeignTableError: it is not; it, or its users' columns, are of another kind.
    """
    stored = logged.schema
    check_users_columns(table, stored, uri)
    problem = None
    if logged.min_reader_version > 1:
        problem = f"it needs Delta reader version {logged.min_reader_version}, and ours are of version 1"
    elif logged.partition_columns != (() if service is None else (SERVICE.name,)):
        problem = _explain_partitions(logged.partition_columns, service)
    for column in table.columns:
        if column.name not in stored.names:
            if not column.nullable:
                problem = problem or f"it has no column {column.name}"
        elif stored.field(column.name).type != column.type:
            found = stored.field(column.name).type
            problem = problem or f"its column {column.name} is of type {found}, not {column.type}"
        elif stored.field(column.name).nullable and not column.nullable:
            # As in any table that Spark made. Rows that others left would stay in it unseen.
            problem = problem or f"its column {column.name} may be null, and ours may not"
    for name in stored.names:
        if not stored.field(name).nullable and name not in table.schema.names:
            problem = problem or f"it needs a value in its column {name}, which ours do not have"
    if problem is not None:
        raise ForeignTableError(
            f"The table at {uri} is not the {table.name} table of this project: {problem}. Nothing was "
            f"written to it. Move it away, or choose another place with DICOM_{table.name.upper()}_TABLE_PATH."
        )


def _explain_partitions(found: tuple[str, ...], service: str | None) -> str:
    """Why a table that is not partitioned as ours are is not ours."""
    if service is not None and not found:
        return (
            f"it has the rows of one service, and no partitions by {SERVICE.name}, as tables have that several "
            "services share"
        )
    if service is None and found == (SERVICE.name,):
        return 'several services share it, which is said by tables = "shared" in the file that DICOM_SERVICES names'
    if service is not None:
        return f"it is partitioned by {', '.join(found)}, and not by {SERVICE.name}"
    return "it is partitioned, and ours are not"
