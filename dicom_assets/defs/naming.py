"""What the assets of a service, and all that belongs to them, are called."""

from dataclasses import dataclass

import dagster as dg

from dicom_assets.core.schema import Table

GROUP = "dicom"


@dataclass(frozen=True)
class Naming:
    """The names of one service's parts; plain ones where there is no other service."""

    service: str | None = None

    @property
    def group(self) -> str:
        """The asset group."""
        return self.service or GROUP

    @property
    def words(self) -> str:
        """Which service, as the end of a sentence or title; nothing where there is one."""
        return f" of {self.service}" if self.service else ""

    def key(self, table: Table | str) -> dg.AssetKey:
        """The asset that keeps a table."""
        name = table if isinstance(table, str) else table.name
        return dg.AssetKey([self.service, name] if self.service else name)

    def name(self, name: str) -> str:
        """The name of a job, step, sensor, resource or pool, as Dagster itself joins the parts of an asset's key."""
        return f"{self.service}__{name}" if self.service else name

    def owns(self, run: dg.DagsterRun) -> bool:
        """Whether a run is of this service; any is where there is no other."""
        if self.service is None:
            return True
        if run.asset_selection:
            return any(key.path[0] == self.service for key in run.asset_selection)
        return run.job_name.startswith(self.name(""))


PLAIN = Naming()
"""Names where there is one service."""
