"""The embedded services of `make demo` and `make dev`: made-up hours, kept between runs, and what points at them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_assets.adapters.delta import Lake
from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.core.schema import CHANGE_FEED
from dicom_assets.emulator.errors import EmulatorStartError
from dicom_assets.emulator.history import write_history
from dicom_assets.emulator.sources import bundled_files
from dicom_assets.emulator.store import Service
from dicom_assets.settings import Settings

FIRST_HOUR = datetime(2026, 3, 1, tzinfo=UTC)
"""Where the demo's day begins."""
PROJECT = Path(__file__).parents[1]
"""Where `dagster.yaml` and `workspace.yaml` lie."""


class ForeignTablesError(DicomAssetsError):
    """Tables that another service filled lie where an embedded service's are to be."""


@dataclass(frozen=True)
class Day:
    """What the embedded service is given when it is empty."""

    hours: int = 24
    instances: int = 2000
    """Made-up ones; the files that come with pydicom arrive among them."""
    start: datetime = FIRST_HOUR

    @property
    def end(self) -> datetime:
        """End of the last hour, exclusive."""
        return self.start + timedelta(hours=self.hours)


@contextmanager
def open_service(folder: Path) -> Iterator[Service]:
    """The service whose database and DICOM files lie in a folder; made there if need be.

    Raises:
        EmulatorStartError: the database cannot be opened, or another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        service = Service(folder / "service.db", file_store=folder / "files")
    except EmulatorStartError as error:
        raise EmulatorStartError(f"{error} Perhaps `make dev` or `make demo` is running: one at a time.") from error
    with service:
        yield service


def fill(service: Service, day: Day, progress: Callable[[int, int], None] | None = None) -> None:
    """Gives an empty service its day; leaves any other as it is."""
    if not service.change_count():
        write_history(
            service,
            start=day.start,
            hours=day.hours,
            instances=day.instances,
            files=bundled_files(),
            progress=progress,
        )


def first_hour(service: Service) -> datetime:
    """The hour of the first change of a service that has one."""
    return datetime.fromisoformat(f"{service.change_feed(limit=1, include_metadata=False)[0]['timestamp'][:13]}:00Z")


def refuse_foreign_tables(service: Service, lake: Lake, settings: Settings) -> None:
    """A new service numbers its changes from 1: among another service's rows they would be taken for old ones.

    Raises:
        ForeignTablesError: the service is new, and the tables are not.
    """
    if not service.change_count() and lake.open(CHANGE_FEED) is not None:
        raise ForeignTablesError(
            f"There are tables in {settings.lake_url} that this embedded service did not fill, and it would mix its "
            "rows into them. Set DICOM_STORAGE_URL to another place, or delete them (`make clean-demo` deletes those "
            "in ./data)."
        )


def point_at(url: str, folder: Path, start: datetime, end: datetime | None, env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which the settings name the embedded service; whatever else is set in it stays.

    Args:
        url: of the service.
        folder: where the service keeps its state.
        start: the first hour that is a partition.
        end: of the last one; None where the hours go on.
        env: the environment to start from.
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


def prepare_home(home: Path, project: Path = PROJECT) -> Path:
    """A folder that Dagster can keep its history in: with the project's `dagster.yaml`, where there is one."""
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    source, link = project / "dagster.yaml", home / "dagster.yaml"
    if link.is_symlink():
        link.unlink()  # the project may have moved
    if source.is_file() and not link.exists():
        link.symlink_to(source)
    return home
