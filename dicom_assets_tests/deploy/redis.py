"""A Redis server of its own, on a port of this machine, from Debian's package."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from dicom_assets_tests.defs.deployment import free_port, is_open, wait_for

PROGRAM = shutil.which("redis-server")


@contextmanager
def serve() -> Iterator[str]:
    """The URL of an empty one, which keeps all of it in memory."""
    assert PROGRAM
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = subprocess.Popen([PROGRAM, *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: is_open(port), "Redis")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(300)
