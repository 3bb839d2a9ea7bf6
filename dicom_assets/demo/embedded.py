"""The embedded services of the commands `demo` and `dev`: synthetic hours, kept between runs, and their settings."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_assets.config.project import DAGSTER_YAML, is_checkout, name_command
from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.emulator.datasets.history import write_history
from dicom_assets.emulator.datasets.sources import bundled_files
from dicom_assets.emulator.errors import EmulatorStartError
from dicom_assets.emulator.store.store import Service
from dicom_assets.lake.table.delta import Lake

FIRST_HOUR = datetime(2026, 3, 1, tzinfo=UTC)
"""Start of the demo's day."""


class ForeignTablesError(DicomAssetsError):
    """Tables of another service exist where an embedded service's tables would be created."""


@dataclass(frozen=True)
class Day:
    """Content that an empty embedded service is filled with."""

    hours: int = 24
    instances: int = 2000
    """Number of synthetic instances; the files bundled with pydicom arrive among them."""
    start: datetime = FIRST_HOUR

    @property
    def end(self) -> datetime:
        """End of the last hour, exclusive, in the time zone of `start`."""
        return self.start + timedelta(hours=self.hours)


@contextmanager
def open_service(folder: Path) -> Iterator[Service]:
    """Open the service whose database and DICOM files lie in a folder; create them if they are missing.

    Raises:
        EmulatorStartError: The database cannot be opened, or another process has it open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        service = Service(folder / "service.db", file_store=folder / "files")
    except EmulatorStartError as error:
        commands = " or ".join(f"`{name_command(name)}`" for name in ("dev", "demo"))
        raise EmulatorStartError(f"{error} Perhaps {commands} is running: one at a time.") from error
    with service:
        yield service


def fill(service: Service, day: Day, progress: Callable[[int, int], None] | None = None) -> None:
    """Fill an empty service with its day; add to any other service only DICOM files that are missing.

    Args:
        service: The service.
        day: Content of an empty service.
        progress: Called with the number of steps done and the number of all steps.
    """
    if not service.change_count():
        write_history(
            service, start=day.start, hours=day.hours, instances=day.instances, files=bundled_files(), progress=progress
        )
    else:
        service.write_missing_files()  # an earlier version wrote none, or was killed before it wrote them


def find_first_hour(service: Service) -> datetime:
    """Return the hour of the service's first change, in UTC; the service must have one."""
    return datetime.fromisoformat(f"{service.change_feed(limit=1, include_metadata=False)[0]['timestamp'][:13]}:00Z")


def refuse_foreign_tables(service: Service, lake: Lake, settings: Settings) -> None:
    """Refuse to fill another service's tables from a new service.

    A new service numbers its changes from 1, so its changes would count as older than the rows in the tables.

    Raises:
        ForeignTablesError: The service has no changes, and the tables exist.
    """
    if not service.change_count() and lake.open(CHANGE_FEED) is not None:
        hint = " (`make clean-demo` deletes those in ./data)" if is_checkout() else ""
        raise ForeignTablesError(
            f"There are tables in {settings.lake_url} that this embedded service did not fill, and it would mix its "
            f"rows into them. Set DICOM_STORAGE_URL to another place, or delete them{hint}."
        )


def point_at(url: str, folder: Path, start: datetime, end: datetime | None, env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose settings name the embedded service; other variables stay as they are.

    Args:
        url: Base URL of the service.
        folder: Folder of the service's state.
        start: Start of the first hour partition.
        end: End of the last hour partition, exclusive; None where the hours go on.
        env: The environment to copy; it is not changed.
    """
    return {
        **env,
        "DICOM_SERVICES": "",
        "DICOM_SERVICE_URL": url,
        "DICOM_AUTHENTICATION": "none",
        "DICOM_START_TIME": start.isoformat(),
        "DICOM_END_TIME": "" if end is None else end.isoformat(),
        "DICOM_FILE_SYSTEM_URL": str((folder / "files").absolute()),
    }


def prepare_home(home: Path, source: Path = DAGSTER_YAML) -> Path:
    """Create a folder for Dagster's history, with a link to the project's `dagster.yaml` unless it has its own.

    Returns:
        The folder as an absolute path.
    """
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    if link.is_symlink():
        link.unlink()  # the project, or the environment that it is installed in, may have moved
    if not link.exists():
        link.symlink_to(source)
    return home
