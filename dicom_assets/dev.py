"""`make dev`: the embedded service and Dagster's UI and daemon, until Ctrl-C."""

import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.embedded import PROJECT, Day, fill, open_service, point_at, prepare_home
from dicom_assets.emulator.server import serve
from dicom_assets.settings import load_settings

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 30
"""For Dagster to stop its own processes, which takes it some seconds."""
_NOTICE = "ignore:Function `dev_command`"
"""That `dg dev` does the same: it does not start without pyproject.toml, and would have to be installed."""


class DevError(DicomAssetsError):
    """The UI cannot start, or ended by itself."""


def run_dev(
    console: Console, *, folder: Path, home: Path, day: Day, port: int, service_port: int, env: Mapping[str, str]
) -> None:
    """Serve until Ctrl-C (or SIGTERM), then stop everything that was started.

    Args:
        console: to say on what is where.
        folder: where the embedded service keeps its state.
        home: where Dagster keeps its history.
        day: what the service is given when it is empty.
        port: of the UI.
        service_port: of the service; 0 takes a free one.
        env: may place the tables with DICOM_STORAGE_URL and its kin.

    Raises:
        DicomAssetsError: a port is taken, a setting cannot be used, or Dagster ended by itself.
    """
    # A shell that starts this in the background has SIGINT ignored, and Dagster would inherit that and never stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _check_port_is_free("--port", "the UI", port)
    if service_port:
        _check_port_is_free("--service-port", "the embedded service", service_port)
    try:
        with open_service(folder) as service:
            if not service.change_count():
                console.print("Filling the embedded DICOM service (once, some seconds) …")
            fill(service, day)
            with serve(service, host=HOST, port=service_port) as url:
                child_env = point_at(url, folder, day, env)
                load_settings(child_env)  # says what is wrong before Dagster says it in many more words
                console.print(f"DICOM service  {url}/v2/changefeed", highlight=False)
                console.print(f"Dagster's UI   http://{HOST}:{port}/asset-groups  (in some seconds)", highlight=False)
                console.print("Ctrl-C stops both.\n")
                warnings = ",".join(filter(None, [env.get("PYTHONWARNINGS"), _NOTICE]))
                home = prepare_home(home)
                _run_dagster({**child_env, "DAGSTER_HOME": str(home), "PYTHONWARNINGS": warnings}, port)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _run_dagster(env: Mapping[str, str], port: int) -> None:
    """Dagster's UI and daemon, until they end or this process is interrupted."""
    workspace = PROJECT / "workspace.yaml"
    code = ["-w", str(workspace)] if workspace.is_file() else ["-m", "dicom_assets.definitions"]
    command = [sys.executable, "-m", "dagster", "dev", *code, "-h", HOST, "-p", str(port), "--log-level", "warning"]
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once; Dagster stops its own children.
    child = subprocess.Popen(command, env=env, start_new_session=True)  # noqa: S603 - fixed arguments
    try:
        status = child.wait()
    except KeyboardInterrupt:
        _stop(child)
        raise
    raise DevError(
        f"Dagster ended by itself, with status {status}. Its messages above say why; `make definitions` checks whether "
        "it can load the project."
    )


def _stop(child: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child.send_signal(number)
        try:
            child.wait(_PATIENCE_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue  # an impatient second Ctrl-C goes on to the next, stronger signal
        return


def _check_port_is_free(option: str, what: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise DevError(
                f"Port {port}, meant for {what}, cannot be had: {error}. Another program probably has it: stop that, "
                f'or choose another port, such as `make dev ARGS="{option} {port + 1}"`.'
            ) from error
