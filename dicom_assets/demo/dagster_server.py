"""Dagster's UI and daemon as a child process that ends with all its own children."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from dicom_assets.config.project import WORKSPACE_YAML, is_checkout
from dicom_assets.core.errors import DicomAssetsError

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 30
"""Most seconds for Dagster and its runs to stop, which takes some seconds."""
_NOTICE = "ignore:Function `dev_command`"
"""Warning that recommends `dg dev`. `dg dev` needs pyproject.toml, and would have to be installed."""
_LAST_LINES = 20
_EVENT = " - dagster - DEBUG - "
"""Text in each line that a run logs; hundreds of such lines may follow the line that names the fault."""


class DagsterServerError(DicomAssetsError):
    """Dagster ended by itself."""


class DagsterServer:
    """Context manager that runs `dagster dev` with this project's definitions."""

    def __init__(self, env: Mapping[str, str], port: int, log: Path) -> None:
        """Create a server that is not running yet.

        Args:
            env: Environment with the settings and DAGSTER_HOME.
            port: Port of the UI.
            log: File for all output of Dagster and its runs; it is overwritten.
        """
        self.url = f"http://{HOST}:{port}"
        self._log = log
        where = ["-w", str(WORKSPACE_YAML), "-h", HOST, "-p", str(port)]
        self._command = [sys.executable, "-m", "dagster", "dev", *where, "--log-level", "warning"]
        warnings = ",".join(filter(None, [env.get("PYTHONWARNINGS"), _NOTICE]))
        self._env = {**env, "PYTHONWARNINGS": warnings}

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A separate session: Ctrl-C reaches only this process, which passes it on once, to the whole group.
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                self._command, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The whole group gets the signal, as from a terminal: otherwise a code server lets its runs finish.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with suppress(KeyboardInterrupt):  # a second Ctrl-C moves on to the next, stronger signal
                if self._end(number):
                    return

    def _end(self, number: int) -> bool:
        """Send a signal, and return whether Dagster and all processes of its group ended in time."""
        group = self._process.pid
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            self._process.poll()
            with suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)  # in a container Dagster's orphans may be this process's
            try:
                os.killpg(group, 0)
            except (ProcessLookupError, PermissionError):  # on macOS the latter, if only dead processes are left
                return True
            time.sleep(0.1)
        return False

    def wait_until_it_answers(self) -> None:
        """Wait until the UI can be opened.

        Raises:
            DagsterServerError: Dagster ended before the UI could be opened.
        """
        while self._process.poll() is None:
            try:
                httpx.get(f"{self.url}/server_info", timeout=5)
            except httpx.TransportError:
                time.sleep(0.2)
            else:
                return
        self.wait()

    def wait(self) -> None:
        """Wait until Dagster ends or an interrupt is raised; the method never returns.

        Raises:
            DagsterServerError: Dagster ended.
        """
        status = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line for line in lines if _EVENT not in line][-_LAST_LINES:]
        check = "make definitions" if is_checkout() else "dagster definitions validate -m dicom_assets.definitions"
        raise DagsterServerError(
            f"Dagster ended by itself, with status {status}. `{check}` checks whether it can load the project. Its "
            f"last words, from {self._log}:\n" + "\n".join(said)
        )
