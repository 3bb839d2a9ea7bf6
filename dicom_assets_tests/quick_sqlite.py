"""Dagster's storage in SQLite as it is, but quick: of runs in a test's own process it was the larger part.

For every connection Dagster makes an engine, which compiles each statement anew, and for every instance and run it
reads all its migrations. `defs/test_production_storage.py` runs without any of this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache

import pytest
import sqlalchemy
from alembic.script import ScriptDirectory
from sqlalchemy.pool import NullPool

from dicom_assets_tests.dagster_private import import_sqlite_storages

_patch = pytest.MonkeyPatch()


@lru_cache(64)
def _engine_of(url: str, timeout: float) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": timeout})
    # Nothing here has to outlive a power cut.
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return engine


def _create_engine(url: str, *, poolclass: type[NullPool], connect_args: dict | None = None) -> sqlalchemy.Engine:
    return _engine_of(url, (connect_args or {}).get("timeout", 5))


def hasten() -> None:
    """Keep engines and migrations for as long as this process lives."""
    # MonkeyPatch fails where a newer Dagster has them elsewhere.
    for module in import_sqlite_storages():
        _patch.setattr(module, "create_engine", _create_engine)
    _patch.setattr(ScriptDirectory, "from_config", cache(ScriptDirectory.from_config))


@contextmanager
def production_storage() -> Iterator[None]:
    """Dagster's storage as in production, until the block ends."""
    _patch.undo()
    try:
        yield
    finally:
        hasten()
