"""`dicom-assets dev`: an embedded service that keeps changing, with Dagster's UI and daemon, until Ctrl-C."""

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console

from dicom_assets.config.connections import build_lake
from dicom_assets.config.project import name_command
from dicom_assets.config.settings import load_settings
from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.demo.dagster_server import HOST, DagsterServer
from dicom_assets.demo.embedded import (
    Day,
    fill,
    find_first_hour,
    open_service,
    point_at,
    prepare_home,
    refuse_foreign_tables,
)
from dicom_assets.emulator.datasets.live import Producer, producing
from dicom_assets.emulator.http.server import serve
from dicom_assets.emulator.store.store import Service

DEFAULTS = {
    "DICOM_WINDOW_DELAY_MINUTES": "1",
    "DICOM_SENSOR_INTERVAL_SECONDS": "20",
    "DICOM_CATCH_UP_HOURS_PER_RUN": "4",
}
"""Settings for a person who watches the UI: hours are read soon, and turn green a few at a time."""


class DevError(DicomAssetsError):
    """The services cannot start."""


def run_dev(
    console: Console,
    *,
    folder: Path,
    now: datetime,
    hours: int,
    instances: int,
    per_minute: float,
    port: int,
    service_port: int,
    env: Mapping[str, str],
) -> None:
    """Serve until Ctrl-C, then stop every process that was started.

    Args:
        console: Console for addresses, paths and the changes of the service.
        folder: Folder of the service's state, Dagster's history and log and, unless `env` sets another location, the
            tables.
        now: The current time, with a zone. The changes of a new service lie in the hours before it.
        hours: Hours of history of a new service.
        instances: Number of synthetic instances in these hours.
        per_minute: Average number of changes of the service per minute from now on.
        port: Port of the UI.
        service_port: Port of the service; 0 takes a free one.
        env: Environment; DICOM_STORAGE_URL and related variables set the tables' location.

    Raises:
        DicomAssetsError: A port is taken, a setting cannot be used, or Dagster ended by itself.
    """
    _check_port_is_free("--port", "the UI", port)
    if service_port:
        _check_port_is_free("--service-port", "the embedded service", service_port)
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    try:
        with open_service(folder / "service") as service, serve(service, host=HOST, port=service_port) as url:
            env = {
                **DEFAULTS,
                "DICOM_STORAGE_URL": str(folder),
                **{name: value for name, value in env.items() if value},
            }
            # Reports wrong settings before Dagster does, whose message is much longer.
            settings = load_settings(point_at(url, folder / "service", start, None, env))
            refuse_foreign_tables(service, build_lake(settings), settings)
            if not service.change_count():
                console.print(
                    f"Filling the embedded DICOM service with the last {hours} hours (once, some seconds) …",
                    highlight=False,
                )
            fill(service, Day(hours, instances, start))
            _print_line(console, "DICOM service", f"{url}/v2/changefeed")
            _print_line(console, "Tables", settings.lake_url)
            child_env = point_at(url, folder / "service", find_first_hour(service), None, env)
            _follow(console, service, prepare_home(folder / "dagster"), child_env, port=port, per_minute=per_minute)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _follow(
    console: Console, service: Service, home: Path, env: Mapping[str, str], *, port: int, per_minute: float
) -> None:
    """Run Dagster while the service keeps changing, until Ctrl-C.

    Raises:
        DagsterServerError: Dagster ended by itself.
    """
    log = home / "dagster.log"
    _print_line(console, "Dagster's log", str(log))
    with DagsterServer({**env, "DAGSTER_HOME": str(home)}, port, log) as dagster:
        dagster.wait_until_it_answers()
        _print_line(console, "Dagster's UI", f"{dagster.url}/asset-groups")
        console.print("\nCtrl-C stops everything. Changes of the service:\n")

        def tell(when: datetime, what: str) -> None:
            console.print(f"{when:%H:%M:%S} UTC  {what}", highlight=False)

        with producing(Producer(service), per_minute=per_minute, tell=tell):
            dagster.wait()


def _print_line(console: Console, what: str, where: str) -> None:
    console.print(f"{what:15}{where}", highlight=False, markup=False, soft_wrap=True)


def _check_port_is_free(option: str, what: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            other = name_command("dev", f"{option} {port + 1}")
            raise DevError(
                f"Port {port}, meant for {what}, cannot be opened: {error}. Another program probably has it: stop "
                f"that, or choose another port, such as `{other}`."
            ) from error
