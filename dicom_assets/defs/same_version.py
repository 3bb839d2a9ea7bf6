"""Whether the process of a run is as new as the code location that asked for it: workers are upgraded one by one.

A worker that was forgotten would write rows without what came since, and no check of its own would know. So would one
whose file of users' columns lacks some.
"""

import re
import socket
from collections.abc import Iterable
from importlib.metadata import version

import dagster as dg

from dicom_assets.core.errors import OutdatedError
from dicom_assets.core.schema import TABLES, Table

VERSION = version("dicom-assets")
VERSION_TAG = "dicom_assets/version"
"""Of every asset's step. Dagster keeps it with each run, as the code location had it that asked for the run."""
COLUMNS_TAG = "dicom_assets/columns"
"""Of the step of a table that has users' columns: those, with their elements."""


def tag_step(table: Table) -> dict[str, str]:
    """The tags of the step that keeps a table."""
    columns = "\n".join(find_users_columns([table]))
    return {VERSION_TAG: VERSION} | ({COLUMNS_TAG: columns} if columns else {})


def find_users_columns(tables: Iterable[Table]) -> list[str]:
    """The columns that users added to some tables, each once, with its element."""
    declared = {table.name: table.columns for table in TABLES}
    added = [
        column for table in tables for column in table.columns if column not in declared.get(table.name, table.columns)
    ]
    return list(dict.fromkeys(f"{column.name} ({column.tag})" for column in added))


def require_recent(instance: dg.DagsterInstance, run: dg.DagsterRun, tables: Iterable[Table]) -> None:
    """Makes sure that no newer version than this one asked for the run, and none with columns that this one lacks.

    An older one may have: before an upgrade.

    Raises:
        OutdatedError: such a one did.
    """
    asked = next(iter(_find_tags(instance, run, VERSION_TAG)), None)
    if asked and _order(asked) > _order(VERSION):
        raise OutdatedError(
            f"dicom_assets {asked} asked for this run, and the process that executes it, on {socket.gethostname()}, "
            f"has the older {VERSION}. Rows would lack what came in between, so nothing was written. Upgrade the "
            f"worker there (pip install 'dicom-assets=={asked}', with its extras), start it anew, and run the hours "
            "again."
        )
    columns = [each for tag in _find_tags(instance, run, COLUMNS_TAG) for each in tag.splitlines()]
    if missing := sorted(set(columns) - set(find_users_columns(tables))):
        raise OutdatedError(
            f"This run was asked for with columns of DICOM_EXTRA_COLUMNS that the process which executes it, on "
            f"{socket.gethostname()}, does not have: {', '.join(missing)}. Rows would lack their values, so nothing "
            "was written. Give that worker the file of the code location, start it anew, and run the hours again."
        )


def _find_tags(instance: dg.DagsterInstance, run: dg.DagsterRun, name: str) -> list[str]:
    """What the steps of the run's job are tagged with, as the code location had it that asked for the run."""
    if run.job_snapshot_id is None:
        return []
    steps = instance.get_job_snapshot(run.job_snapshot_id).node_defs_snapshot.op_def_snaps
    return [str(step.tags[name]) for step in steps if name in step.tags]


def _order(text: str) -> list[int]:
    """Of a release: whatever follows its numbers is left out."""
    release = re.match(r"[\d.]*", text)
    return [int(number) for number in (release[0] if release else "").split(".") if number]
