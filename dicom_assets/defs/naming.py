"""Names of a service's assets, jobs, sensors, resources and pools."""

from dataclasses import dataclass

import dagster as dg

from dicom_assets.core.columns.schema import Table

GROUP = "dicom"


@dataclass(frozen=True)
class Naming:
    """Names of one service's parts; plain names where there is only one service."""

    service: str | None = None

    @property
    def group(self) -> str:
        """Asset group."""
        return self.service or GROUP

    @property
    def words(self) -> str:
        """Words that name the service at the end of a sentence or title; empty where there is only one service."""
        return f" of {self.service}" if self.service else ""

    def key(self, table: Table | str) -> dg.AssetKey:
        """Return the key of the asset that keeps a table."""
        name = table if isinstance(table, str) else table.name
        return dg.AssetKey([self.service, name] if self.service else name)

    def name(self, name: str) -> str:
        """Return the name of a job, step, sensor, resource or pool, joined as Dagster joins an asset key's parts."""
        return f"{self.service}__{name}" if self.service else name

    def owns(self, run: dg.DagsterRun) -> bool:
        """Return whether a run belongs to this service; True for any run where there is only one service."""
        if self.service is None:
            return True
        if run.asset_selection:
            return any(key.path[0] == self.service for key in run.asset_selection)
        return run.job_name.startswith(self.name(""))


PLAIN = Naming()
"""Names where there is one service."""
