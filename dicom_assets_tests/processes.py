"""Processes that tests start: their environment, the command line, and ports for those that must be told one."""

import os
import secrets
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).parents[1]
"""The checkout."""
PATIENCE_SECONDS = 300
"""For what takes some seconds: on a busy machine it takes a hundred times that."""
COMMAND = [sys.executable, "-m", "dicom_assets.cli"]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment with the variables, and without other settings of the project, Dagster or Azure.

    Nor with the size of a screen.
    """
    settings = ("DICOM_", "DAGSTER_", "AZURE_", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)} | variables


def run_command(*arguments: object, env: dict[str, str], **options) -> subprocess.CompletedProcess[str]:
    """What `dicom-assets` says on a screen of 160 columns, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        **options,
    )


def free_port() -> int:
    """A port that nobody takes by chance before it is used: below those that systems give to whoever wants any."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
