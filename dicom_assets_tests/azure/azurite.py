"""Azurite, Microsoft's emulator of Azure storage, over https on a port of this machine."""

import base64
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme
from obstore.store import AzureStore

PROJECT = Path(__file__).parents[2]
MAIN = PROJECT / ".cache/azurite/node_modules/azurite/dist/src/blob/main.js"
"""Put there by `make azurite`, in the version that is pinned in the Makefile."""
ACCOUNT = "hospitallake"
STARTED = "successfully listens on "


@dataclass(frozen=True)
class Azurite:
    """A running emulator with one account."""

    url: str
    """Of the account, as `DICOM_STORAGE_URL`."""
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(64)).decode())
    account: str = ACCOUNT


def require_azurite() -> str:
    """Path of node; skips the test where node or Azurite is missing, and fails it where nothing may be missing."""
    node = shutil.which("node")
    missing = None
    if node is None:
        missing = "node is not on the PATH"
    elif not MAIN.is_file():
        missing = f"{MAIN.relative_to(PROJECT)} is missing: run `make azurite`, which needs npm and its registry"
    if missing is None:
        return str(node)
    if os.environ.get("DICOM_ASSETS_REQUIRE_ALL") == "1":
        pytest.fail(f"No storage emulator: {missing}, and DICOM_ASSETS_REQUIRE_ALL=1 lets nothing be skipped.")
    pytest.skip(f"No storage emulator: {missing}.")


@contextmanager
def run_azurite(authority: trustme.CA) -> Iterator[Azurite]:
    """An emulator of our own until the block ends: account keys, SAS and Entra's tokens, everything in memory."""
    node = require_azurite()
    with TemporaryDirectory(prefix="azurite-") as folder:
        leaf = authority.issue_cert("127.0.0.1")
        certificate, key_file = Path(folder) / "leaf.pem", Path(folder) / "leaf.key"
        certificate.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key_file)
        azurite = Azurite("")
        command = [node, str(MAIN), "--blobHost", "127.0.0.1", "--blobPort", "0"]
        command += ["--oauth", "basic", "--cert", str(certificate), "--key", str(key_file)]
        command += ["--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--silent"]
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{azurite.account}:{azurite.key}"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        )
        try:
            yield Azurite(f"{_address(process)}/{azurite.account}", azurite.key)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _address(process: subprocess.Popen[str]) -> str:
    said = []
    for line in process.stdout:
        said.append(line)
        if STARTED in line:
            return line.partition(STARTED)[2].strip()
    raise RuntimeError(f"Azurite did not start: {''.join(said)}")


def store_of(azurite: Azurite, container: str, authority_pem: str) -> AzureStore:
    raise NotImplementedError
