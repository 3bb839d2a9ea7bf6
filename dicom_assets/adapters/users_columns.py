"""Whether the columns that users added to a table can go on as the users' file has them now."""

import pyarrow as pa

from dicom_assets.core.errors import ForeignTableError
from dicom_assets.core.schema import TABLES, Table, type_names


def check_users_columns(table: Table, stored: pa.Schema, uri: str) -> None:
    """Whether each of them has the type and the spelling that it was added with.

    Args:
        table: with the users' columns.
        stored: the columns that the table has.
        uri: where it lies.

    Raises:
        ForeignTableError: one of them has not.
    """
    # A table that is none of the five carries no columns of users.
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
