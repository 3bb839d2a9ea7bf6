"""Azurite, Microsoft's emulator of Azure storage, on a port of this machine."""

import base64
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from bench.measure import ROOT

VERSION = "3.37.0"
"""On Node 20 npm would choose an older one, in which the third commit to a table fails."""
FOLDER = ROOT / ".cache" / "azurite"
MAIN = FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT = "benchlake"


@dataclass(frozen=True)
class Azurite:
    """A running emulator with one account."""

    url: str
    """Of the account."""
    key: str


def install() -> None:
    """Fetches it once, with npm."""
    if not MAIN.is_file():
        command = ["npm", "install", "--prefix", str(FOLDER), "--no-save", "--no-audit", "--no-fund", "--omit=dev"]
        subprocess.run([*command, "--loglevel=error", f"azurite@{VERSION}"], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def run_azurite() -> Iterator[Azurite]:
    """An emulator that keeps everything in memory, until the block ends."""
    install()
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    command = ["node", str(MAIN), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    with TemporaryDirectory() as folder:
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
        process = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if "listens on" in line or "listening at" in line)
            yield Azurite(f"{line.split()[-1].rstrip('/')}/{ACCOUNT}", key)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
