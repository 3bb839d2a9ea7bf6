"""Check that the process of a run is not older than the code location that requested the run.

Workers are upgraded one by one. A worker that was not upgraded would write rows without the newer version's columns
and fixes, and its own checks would not notice. So would a worker whose file of users' columns lacks some columns.
"""

import re
import socket
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import dagster as dg

from dicom_assets.core.columns.schema import TABLES, Table
from dicom_assets.core.errors import OutdatedError
from dicom_assets.defs.dagster_private import get_step_tags
from dicom_assets.defs.naming import COLUMNS_TAG, VERSION_TAG

VERSION = version("dicom-assets")


def tag_step(table: Table) -> dict[str, str]:
    """Return the tags of the step that writes a table."""
    columns = "\n".join(find_users_columns([table]))
    return {VERSION_TAG: VERSION} | ({COLUMNS_TAG: columns} if columns else {})


def find_users_columns(tables: Iterable[Table]) -> list[str]:
    """Return the columns that users added to some tables, each once, with its DICOM element."""
    declared = {table.name: table.columns for table in TABLES}
    added = [
        column for table in tables for column in table.columns if column not in declared.get(table.name, table.columns)
    ]
    return list(dict.fromkeys(f"{column.name} ({column.tag})" for column in added))


def require_recent(instance: dg.DagsterInstance, run: dg.DagsterRun, tables: Mapping[dg.AssetKey, Table]) -> None:
    """Check that the code location that requested the run has no newer version, and no columns this process lacks.

    An older version passes: the run was requested before an upgrade.

    Args:
        instance: Holds the run's job, with the tags of its steps.
        run: The run that this process executes.
        tables: This process's tables by asset key. Steps of other assets have columns of their own.

    Raises:
        OutdatedError: The code location has a newer version, or columns that this process lacks.
    """
    own = {key.to_python_identifier() for key in tables}
    tags = [of_step for step, of_step in get_step_tags(instance, run).items() if step in own]
    asked = next((str(of_step[VERSION_TAG]) for of_step in tags if VERSION_TAG in of_step), None)
    if asked and _order(asked) > _order(VERSION):
        raise OutdatedError(
            f"dicom_assets {asked} asked for this run, and the process that executes it, on {socket.gethostname()}, "
            f"has the older {VERSION}. Rows would lack what came in between, so nothing was written. Upgrade the "
            f"worker there (pip install 'dicom-assets=={asked}', with its extras), start it anew, and run the hours "
            "again."
        )
    columns = [column for of_step in tags for column in str(of_step.get(COLUMNS_TAG, "")).splitlines()]
    if missing := sorted(set(columns) - set(find_users_columns(tables.values()))):
        raise OutdatedError(
            f"This run was asked for with columns of DICOM_EXTRA_COLUMNS that the process which executes it, on "
            f"{socket.gethostname()}, does not have: {', '.join(missing)}. Rows would lack their values, so nothing "
            "was written. Give that worker the file of the code location, start it anew, and run the hours again."
        )


def _order(text: str) -> list[int]:
    """Return the numbers of a version as a sort key; a suffix such as `rc1` is ignored."""
    release = re.match(r"[\d.]*", text)
    return [int(number) for number in (release[0] if release else "").split(".") if number]
