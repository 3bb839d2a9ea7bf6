"""Dagster's UI and daemon as a child process that leaves nothing behind."""

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

from dicom_assets.core.errors import DicomAssetsError
from dicom_assets.embedded import PROJECT

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 30
"""For Dagster and its runs to stop, which takes some seconds."""
_NOTICE = "ignore:Function `dev_command`"
"""That `dg dev` does the same: it does not start without pyproject.toml, and would have to be installed."""
_LAST_LINES = 20
_EVENT = " - dagster - DEBUG - "
"""In each line that a run writes, of which there may be hundreds after the one that tells what is wrong."""


class DagsterServerError(DicomAssetsError):
    """Dagster ended by itself."""


class DagsterServer:
    """`dagster dev` with this project's definitions, from the block's start to its end."""

    def __init__(self, env: Mapping[str, str], port: int, log: Path) -> None:
        """A server that is not running yet.

        Args:
            env: the settings, and DAGSTER_HOME.
            port: of the UI.
            log: file that takes all that Dagster and its runs say, in place of what it held.
        """
        self.url = f"http://{HOST}:{port}"
        self._log = log
        workspace = PROJECT / "workspace.yaml"
        code = ["-w", str(workspace)] if workspace.is_file() else ["-m", "dicom_assets.definitions"]
        address = ["-h", HOST, "-p", str(port)]
        self._command = [sys.executable, "-m", "dagster", "dev", *code, *address, "--log-level", "warning"]
        warnings = ",".join(filter(None, [env.get("PYTHONWARNINGS"), _NOTICE]))
        self._env = {**env, "PYTHONWARNINGS": warnings}

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once, and to all of them.
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                self._command, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All of the group, as a terminal does: left to itself, a code server lets its runs go on to their end.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with suppress(KeyboardInterrupt):  # an impatient second Ctrl-C goes on to the next, stronger signal
                if self._end(number):
                    return

    def _end(self, number: int) -> bool:
        """Sends a signal, and says whether Dagster and all that it has started ended of it in time."""
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
            except (ProcessLookupError, PermissionError):  # the latter where only dead ones are left, on macOS
                return True
            time.sleep(0.1)
        return False

    def wait_until_it_answers(self) -> None:
        """Returns when the UI can be opened.

        Raises:
            DagsterServerError: Dagster ended before that.
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
        """Returns never: it ends with Dagster, or with an interrupt.

        Raises:
            DagsterServerError: Dagster ended.
        """
        status = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line for line in lines if _EVENT not in line][-_LAST_LINES:]
        raise DagsterServerError(
            f"Dagster ended by itself, with status {status}. `make definitions` checks whether it can load the "
            f"project. Its last words, from {self._log}:\n" + "\n".join(said)
        )
