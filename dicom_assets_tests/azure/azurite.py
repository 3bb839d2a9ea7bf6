"""Azurite, Microsoft's emulator of Azure storage, over https on a port of this machine."""

import base64
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import httpx
import pytest
import trustme

from dicom_assets_tests.azure.token_server import TokenServer

PROJECT = Path(__file__).parents[2]
MAIN = PROJECT / ".cache/azurite/node_modules/azurite/dist/src/blob/main.js"
"""Put there by `make azurite`, in the version that the Makefile pins."""
REQUIRED = "REQUIRE_AZURITE"
STARTED = "successfully listens on "
AUDIENCE = "https://storage.azure.com"


@dataclass(frozen=True)
class Azurite:
    """A running emulator with one account."""

    url: str = ""
    """Of the account, as `DICOM_STORAGE_URL`."""
    account: str = "hospitallake"
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(64)).decode())

    def create_container(self, name: str) -> str:
        self.change_container("PUT", name)
        return name

    def change_container(self, method: str, name: str) -> None:
        headers = {"Authorization": f"Bearer {TokenServer().issue(AUDIENCE)}", "x-ms-version": "2021-12-02"}
        url = f"{self.url}/{name}"
        httpx.request(method, url, params={"restype": "container"}, headers=headers, timeout=60).raise_for_status()

    def sas_token(self, *, rights: str = "racwdl", until: str = "2099-01-01T00:00:00Z") -> str:
        """A SAS token of the account, for its blobs.

        Source: "Create an account SAS", string to sign of version 2020-12-06 and later.
        """
        fields = {"sp": rights, "ss": "b", "srt": "co", "st": "", "se": until, "sip": "", "spr": "https"}
        fields |= {"sv": "2021-12-02", "ses": ""}
        text = "".join(f"{part}\n" for part in (self.account, *fields.values()))
        signature = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        given = {name: value for name, value in fields.items() if value}
        return urlencode({**given, "sig": base64.b64encode(signature).decode()})


def find_node() -> str:
    """Path of node; skips the test where node or Azurite is missing, and fails it where nothing may be missing."""
    node = shutil.which("node")
    if node is not None and MAIN.is_file():
        return node
    missing = "node is not on the PATH" if node is None else "`make azurite` has not put Azurite into .cache/azurite"
    if os.environ.get(REQUIRED):
        pytest.fail(f"No storage emulator: {missing}; and {REQUIRED}=1 lets no test be skipped.")
    pytest.skip(f"No storage emulator: {missing}.")


@contextmanager
def run_azurite(authority: trustme.CA) -> Iterator[Azurite]:
    """An emulator of our own until the block ends: keys, SAS and Entra's tokens, all in memory."""
    node = find_node()
    with TemporaryDirectory(prefix="azurite-") as folder:
        leaf = authority.issue_cert("127.0.0.1")
        certificate, key_file = Path(folder, "leaf.pem"), Path(folder, "leaf.key")
        certificate.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key_file)
        azurite = Azurite()
        command = [node, str(MAIN), "--blobHost", "127.0.0.1", "--blobPort", "0", "--oauth", "basic"]
        command += ["--cert", str(certificate), "--key", str(key_file)]
        command += ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{azurite.account}:{azurite.key}"}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        try:
            address = _address(process)
            watchdog.cancel()
            yield Azurite(f"{address}/{azurite.account}", azurite.account, azurite.key)
        finally:
            watchdog.cancel()
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
