"""A Postgres server of its own, on a port of this machine, from Debian's package."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_assets_tests.defs.deployment import free_port, wait_for

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def serve() -> Iterator[dict[str, str | int]]:
    """An empty database, as Dagster's configuration wants it told."""
    port, programs = free_port(), PROGRAMS[-1]
    # Postgres refuses to run as root, who therefore becomes the user that the package brings.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = str(folder / "data")
        initialise = [programs / "initdb", "-D", data, "-U", "dagster", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initialise, user=user, cwd=folder, check=True, capture_output=True, timeout=120)
        quick = [option for name in ("fsync", "synchronous_commit") for option in ("-c", f"{name}=off")]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", *quick],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
            wait_for(lambda: subprocess.run(ready, check=False, timeout=10).returncode == 0, "Postgres")
            yield {
                "hostname": "127.0.0.1",
                "port": port,
                "username": "dagster",
                "password": "any",
                "db_name": "postgres",
                "scheme": "postgresql+psycopg2",
            }
        finally:
            server.terminate()
            server.wait(300)
    finally:
        shutil.rmtree(folder)
