"""Surroundings that the checks look at: each is opened once, on first use."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_assets.config.connections import build_lake, build_storage
from dicom_assets.config.settings import Settings
from dicom_assets.core.errors import ServiceUnreachableError
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake

if TYPE_CHECKING:
    from dagster import DagsterInstance

TIMEOUT_SECONDS, CONNECT_SECONDS = 15, 10


@dataclass(frozen=True)
class ServiceAnswer:
    """Answer of the service to a request without a token."""

    status: int
    date: str | None
    """Date header; None where the answer has none."""
    asked_at: datetime
    seconds: float
    """Time from the request to the answer."""


class Surroundings:
    """Service, lake and Dagster, as the settings name them."""

    def __init__(
        self,
        load: Callable[[], Settings],
        now: Callable[[], datetime],
        *,
        key_prefix: tuple[str, ...] = (),
        dagster_home: str | None = None,
        instance: "DagsterInstance | None" = None,
    ) -> None:
        """Create the surroundings of a process.

        Args:
            load: returns the settings, or raises a SettingsError.
            now: returns the time, with a time zone.
            key_prefix: first parts of the asset keys; empty where there is one service, without a prefix.
            dagster_home: folder of Dagster's instance.
            instance: Dagster's instance, where one is open already; it is not closed here.
        """
        self._load = load
        self.now = now
        self.key_prefix = key_prefix
        self.dagster_home = dagster_home
        self.given_instance = instance
        self.object_ids: dict[str, str] = {}
        """Object IDs of the identities whose tokens have one, by the name of the token's check."""
        self.scratch_path = f"_doctor/{uuid.uuid4()}"
        self.scratch_was_used = False
        self.lake_existed = True

    @cached_property
    def settings(self) -> Settings:
        """Settings of the process."""
        return self._load()

    @cached_property
    def lake(self) -> Lake:
        """Lake with the tables."""
        return build_lake(self.settings)

    @cached_property
    def scratch(self) -> Storage:
        """Scratch folder beside the tables, for trials alone; it is deleted at the end."""
        self.scratch_was_used = True
        if self.lake.storage.is_local:
            self.lake_existed = Path(self.settings.lake_url).exists()
        return build_storage(self.settings, self.lake.storage.uri(self.scratch_path))

    @cached_property
    def answer(self) -> ServiceAnswer:
        """Answer of the service to a request without a token.

        Raises:
            ServiceUnreachableError: the service gave no answer.
        """
        import httpx

        url = f"{self.settings.require_service_url()}/v{self.settings.api_version}/changefeed/latest"
        asked_at, started = self.now(), time.monotonic()
        try:
            # As in the client: plain http is for this machine alone, and does not use a proxy.
            response = httpx.get(
                url,
                params={"includeMetadata": "false"},
                timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
                trust_env=url.startswith("https:"),
            )
        except httpx.HTTPError as error:
            raise ServiceUnreachableError(
                f"No answer from {url} ({type(error).__name__}). Check DICOM_SERVICE_URL, the name's resolution and "
                "the firewall; with a private endpoint, that this machine is in its network."
            ) from error
        return ServiceAnswer(response.status_code, response.headers.get("Date"), asked_at, time.monotonic() - started)

    @cached_property
    def instance(self) -> "DagsterInstance":
        """Dagster's instance."""
        if self.given_instance is not None:
            return self.given_instance
        from dagster import DagsterInstance

        return DagsterInstance.from_config(str(self.dagster_home))

    def close(self) -> None:
        """Close Dagster's instance if it was opened here."""
        if self.given_instance is None and "instance" in self.__dict__:
            self.instance.dispose()
