"""Check of users' columns: whether the columns stored in a table fit the users' file of today."""

import pyarrow as pa

from dicom_assets.core.columns.schema import TABLES, Table, type_names
from dicom_assets.core.errors import ForeignTableError


def check_users_columns(table: Table, stored: pa.Schema, uri: str) -> None:
    """Check that each users' column has the type and the spelling with which it was added to the table.

    Args:
        table: declaration of the table, with the users' columns.
        stored: stored columns of the table.
        uri: location of the table, for the message.

    Raises:
        ForeignTableError: a column has another type or another spelling.
    """
    # Only the project's own tables (TABLES) have users' columns; of any other table all columns are its own.
    own = next((one for one in TABLES if one.name == table.name), table).schema.names
    by_name = {field.name.casefold(): field for field in stored}
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
            f"The column {column.name} of DICOM_EXTRA_COLUMNS does not fit the table at {uri}: it {what}. A column "
            f"stays as it was added, for those who read it. Nothing was written. In the file, {remedy}, or choose a "
            "name that the table has not had; materialising old hours fills it."
        )
