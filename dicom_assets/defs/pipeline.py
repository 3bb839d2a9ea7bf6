"""Parts that the definitions of one service are built from: its settings, names, lake and clock.

A builder of definitions takes everything from here, and nothing from the environment or the module: one code location
can hold several pipelines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import dagster as dg

from dicom_assets.config.connections import (
    IMPATIENT,
    build_auth,
    build_lake,
    build_repair,
    open_client,
    open_impatient_client,
)
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import Table
from dicom_assets.core.memory import MemoryLimit
from dicom_assets.defs.naming import PLAIN, Naming
from dicom_assets.defs.partitions import Hours, build_partitions
from dicom_assets.derive.repair import Repair
from dicom_assets.lake.table.delta import Lake

if TYPE_CHECKING:
    from dicom_assets.identity.token_auth import TokenAuth
    from dicom_assets.service.client import DicomService

Automation = Literal["stopped", "running", "off"]
"""State in which sensors and schedules start out; `off` leaves them out."""


@dataclass(frozen=True)
class Pipeline:
    """One service's change feed and the tables that follow it."""

    settings: Settings
    now: Callable[[], datetime]
    """Returns the current time, with a zone."""
    naming: Naming = PLAIN
    owners: Sequence[str] = ()
    """Owners of the assets."""
    automation: Automation = "running"

    @cached_property
    def lake(self) -> Lake:
        """The lake that holds the tables."""
        return build_lake(self.settings)

    @cached_property
    def repair(self) -> Repair:
        """Repair of rows that earlier versions of the project wrote."""
        return build_repair(self.settings, self.lake)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by name, `change_feed` first, with the users' columns."""
        return {table.name: table for table in self.settings.tables}

    @cached_property
    def tables_by_key(self) -> dict[dg.AssetKey, Table]:
        """The tables by their assets' keys."""
        return {self.naming.key(table): table for table in self.tables.values()}

    @cached_property
    def keys(self) -> list[dg.AssetKey]:
        """Keys of the assets, `change_feed` first."""
        return list(self.tables_by_key)

    @cached_property
    def hours(self) -> Hours:
        """The hours of the lake, and when each is due."""
        delay = timedelta(minutes=self.settings.window_delay_minutes)
        return Hours(self.settings.first_hour, self.settings.end_time, delay)

    @cached_property
    def partitions(self) -> dg.HourlyPartitionsDefinition:
        """The hours as partitions; the open hour is one if the feed sensor may request it."""
        with_open_hour = self.settings.sensor_interval_seconds > 0
        return build_partitions(self.settings.first_hour, self.settings.end_time, with_open_hour=with_open_hour)

    @cached_property
    def memory(self) -> MemoryLimit:
        """Memory limit of a run."""
        return MemoryLimit(self.settings.max_memory_mb)

    @property
    def has_service(self) -> bool:
        """True if a service is configured; without one the sensors exist, and are stopped."""
        return self.settings.service_url is not None

    @property
    def sensor_status(self) -> dg.DefaultSensorStatus:
        """Status of the sensors until a person changes it."""
        is_running = self.has_service and self.automation == "running"
        return dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED

    def open_client(self) -> "DicomService":
        """Open a client of the service."""
        return open_client(self.settings)

    def open_impatient_client(self) -> "DicomService":
        """Open a client with short timeouts and few retries, for a sensor's tick."""
        return open_impatient_client(self.settings, self._impatient_auth)

    @cached_property
    def _impatient_auth(self) -> "TokenAuth | None":
        return build_auth(self.settings, retry=IMPATIENT)
