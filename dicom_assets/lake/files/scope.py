"""Scope of a lake in its tables: all rows, or the rows of one of the services that share the tables.

A shared table is partitioned by the name of the service. Each service then has files, an index of studies, staged rows
and properties of its own, and sees its rows as if there were no others.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import SERVICE

PARTITION_COLUMN = f"partition.{SERVICE.name}"
"""Column of delta-rs's table of live files that has the service of each file."""


@dataclass(frozen=True)
class Scope:
    """Rows and files of a table that belong to one lake."""

    service: str | None = None
    """Service that owns the rows in the scope, where several services share the tables; None for all rows."""

    @property
    def is_shared(self) -> bool:
        """True if the tables also have rows outside the scope."""
        return self.service is not None

    @property
    def partition(self) -> dict[str, str]:
        """Partition value of the scope's files by partition column; empty for all rows."""
        return {} if self.service is None else {SERVICE.name: self.service}

    @property
    def folder(self) -> str:
        """Folder of the scope's files, relative to the table's folder and with a slash at the end; empty for all."""
        return "".join(f"{name}={value}/" for name, value in self.partition.items())

    def owns(self, name: str) -> bool:
        """Return whether a file of the table is in the scope, by its name."""
        return name.startswith(self.folder)

    def qualify(self, name: str, separator: str = "/") -> str:
        """Return a name that no other scope of the table has: the name itself where the scope is all rows."""
        return name if self.service is None else f"{name}{separator}{self.service}"

    def add_column(self, schema: pa.Schema) -> pa.Schema:
        """Return the stored schema of a table whose rows in the scope have this schema."""
        return pa.schema([SERVICE.arrow, *schema]) if self.is_shared else schema

    def remove_column(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema of the rows in the scope, from the stored schema."""
        place = schema.get_field_index(SERVICE.name) if self.is_shared else -1
        return schema if place < 0 else schema.remove(place)

    def select_files(self, actions: pa.Table) -> pa.Table:
        """Return the files in the scope, from delta-rs's table of live files."""
        if not self.is_shared or PARTITION_COLUMN not in actions.column_names:
            return actions
        return actions.filter(pc.equal(actions[PARTITION_COLUMN], self.service))


WHOLE_TABLE = Scope()
"""Scope of a lake whose tables have the rows of one service only."""
