"""Names of one service's assets, jobs, sensors, resources and pools, and the tags of runs and steps."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from dicom_assets.config.settings import LAKE_POOL
from dicom_assets.core.columns.schema import TABLES, Table
from dicom_assets.core.errors import SettingsError
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.dagster_private import get_step_tags

GROUP = "dicom"

REASON_TAG = "dicom_assets/reason"
"""Tag of a run that a sensor requested: the reason."""
ATTEMPT_TAG = "dicom_assets/attempt"
"""Tag of a run that a sensor requested again: the attempt number, from 2 on."""
HOURS_TAG = "hours"
"""Tag with a run's range of hours. The UI's list of runs shows a single partition, but not Dagster's own tags of a
range. The name is short because the list truncates long tags."""
FIRST_HOUR_TAG = "dagster/asset_partition_range_start"
LAST_HOUR_TAG = "dagster/asset_partition_range_end"
"""Dagster's own tags of a run of several partitions."""
VERSION_TAG = "dicom_assets/version"
"""Tag of every asset's step: the project's version. Dagster stores it with each run, as the requesting code location
had it."""
COLUMNS_TAG = "dicom_assets/columns"
"""Tag of the step of a table with users' columns: these columns, with their DICOM elements, one a line."""

JOBS = ("hours", "audit_lake", "check_freshness", "doctor", "fabric_shortcuts", "maintain_lake")
"""Names of the jobs, before a prefix."""
_TABLES = tuple(table.name for table in (*TABLES, HEALTHCARE_INSTANCE))
STEPS = (
    *_TABLES, *(f"maintain_{name}" for name in _TABLES),
    "audit_all_rows", "bring_shortcuts", "check_newest_hour", "examine_surroundings",
)  # fmt: skip
"""Names of the steps of all jobs, before a prefix."""


@dataclass(frozen=True)
class Naming:
    """Names of one service's parts, under a prefix; plain names where there is only one service."""

    prefix: tuple[str, ...] = ()
    """First parts of the asset keys."""
    group_name: str | None = None
    """Asset group; None names it after the prefix."""

    @classmethod
    def of_service(cls, service: str | None, prefix: Iterable[str] = (), group_name: str | None = None) -> "Naming":
        """Return the names of a service, below a common prefix; None means the only service."""
        return cls((*prefix, *([service] if service else [])), group_name)

    @property
    def group(self) -> str:
        """Asset group."""
        return self.group_name or "_".join(self.prefix) or GROUP

    @property
    def words(self) -> str:
        """Words that name the service at the end of a sentence or title; empty where there is only one service."""
        return f" of {'/'.join(self.prefix)}" if self.prefix else ""

    @property
    def hours_job(self) -> str:
        """Name of the job that materialises all assets for some hours."""
        return self.name("hours")

    @property
    def catch_up_sensor(self) -> str:
        """Name of the sensor that requests due hours."""
        return self.name("catch_up")

    @property
    def feed_sensor(self) -> str:
        """Name of the sensor that asks the service for new entries."""
        return self.name("change_feed_sensor")

    @property
    def io_manager(self) -> str:
        """Resource key of the IO manager."""
        return self.name("delta")

    @property
    def service_resource(self) -> str:
        """Resource key of the DICOM service."""
        return self.name("dicom_service")

    @property
    def pool(self) -> str:
        """Pool of every step that writes the tables; its limit is the number of steps that write at the same time."""
        return self.name(LAKE_POOL)

    def key(self, table: Table | str) -> dg.AssetKey:
        """Return the key of the asset that keeps a table."""
        return dg.AssetKey([*self.prefix, table if isinstance(table, str) else table.name])

    def name(self, name: str) -> str:
        """Return the name of a job, step, sensor, resource or pool, joined as Dagster joins an asset key's parts."""
        return "__".join((*self.prefix, name))

    def owns_step(self, step: str) -> bool:
        """Return whether a step belongs to this service. Steps of assets are named after their keys."""
        return step in {self.name(name) for name in STEPS}

    def owns(self, run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
        """Return whether a run belongs to this service, wholly or in part.

        A run's selected assets decide; without a selection the job's name, or a step in a job of someone else.
        """
        if run.asset_selection:
            return not run.asset_selection.isdisjoint(map(self.key, _TABLES))
        is_own_job = run.job_name in {self.name(name) for name in JOBS}
        return is_own_job or any(map(self.owns_step, get_step_tags(instance, run)))


PLAIN = Naming()
"""Names where there is one service."""


def check_key_prefix(prefix: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the parts of a key prefix, which is a text such as `radiology/north` or a list; None has no parts.

    Raises:
        SettingsError: A part cannot stand in the name of a job.
    """
    parts = tuple(prefix.split("/") if isinstance(prefix, str) else prefix or ())
    wrong = [part for part in parts if not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", part)]
    if wrong:
        raise SettingsError(
            f"key_prefix: {wrong[0]!r} cannot stand in the names of assets and jobs. Take letters and digits, joined "
            "by single underscores, and a slash between parts, such as radiology/north."
        )
    return parts
