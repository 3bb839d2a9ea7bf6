"""Checks of the lake: whether it can be read and written, and gives the guarantees that Delta tables need.

Emulators cannot prove these guarantees for the user's storage, so they are tried in a scratch folder beside the tables:
a file is created only where no file exists; a log is listed from a given name on (without this the third commit fails);
and of two writers at the same time neither loses rows.
"""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from dicom_assets.core.columns.schema import KEY, Table
from dicom_assets.core.errors import LakeError
from dicom_assets.core.finding import Fact, Finding
from dicom_assets.doctor.findings import green, red, skipped, yellow
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.lake.spark_calendar import find_refused
from dicom_assets.lake.storage.storage import Storage
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.writing import FixedRows, Written

APPENDS = 3
"""Commits in a row that `check_appends` tries."""
_PROBE = "probe"
TRIAL = Table("trial", "one trial of dicom-assets doctor", (KEY[1].name,), (KEY[1],))


def check_reach(surroundings: Surroundings) -> Finding:
    """Check that the folder of the tables can be listed, and that the settings list all services in the tables."""
    storage = surroundings.lake.storage
    if storage.is_local and not Path(storage.url).exists():
        return yellow(
            f"The folder {Path(storage.url).absolute()} does not exist",
            why="Nothing was written yet; or a disk is not mounted, or the path has a typing error",
            remedy="Check DICOM_STORAGE_URL and DICOM_CONTAINER_NAME; the first run makes the folder",
        )
    with storage.explained("", "list"):
        folders = obstore.list_with_delimiter(storage.open_store(""))["common_prefixes"]
    kept, sharing = surroundings.settings.tables, surroundings.settings.sharing
    tables = [snapshot for table in kept if (snapshot := surroundings.lake.open(table))]
    found = f"{storage.uri('').rstrip('/')} can be listed, and has {len(tables)} of the {len(kept)} tables"
    facts: dict[str, Fact] = {"tables": len(tables), "folders": len(folders)}
    strangers = {service for table in tables for service in table.list_services()} - {*sharing} if sharing else set()
    if not strangers:
        return green(found, facts=facts)
    return yellow(
        f"{found}. They have rows of services that DICOM_SERVICES does not list: {', '.join(sorted(strangers))}",
        why="Such a service was taken out of the file; or has another name now, and its rows are counted twice",
        remedy="Give it the name back that it had; or delete the rows of the old one, as docs/services.md says",
        facts=facts,
    )


def check_dates(surroundings: Surroundings) -> Finding:
    """Check that Spark 3.5 can read the dates of all files."""
    tables = ((table.name, surroundings.lake.open(table)) for table in surroundings.settings.tables)
    refused = {name: len(find_refused(snapshot)) for name, snapshot in tables if snapshot is not None}
    due = {name: files for name, files in refused.items() if files}
    if not due:
        return green("Spark 3.5 can read the dates of all tables", facts={"files": 0})
    listed = ", ".join(f"{files} of {name}" for name, files in due.items())
    return yellow(
        f"Spark 3.5 (runtime 1.3 of Fabric) refuses files that hold dates before 1582-10-15: {listed}",
        why="They were written by an earlier version of this project, or compacted by an engine that does not name "
        "the calendar of its files. Spark 4 and all other readers read them",
        remedy="Run `dicom-assets maintain`, or wait for the daily job maintain_lake: it writes them anew",
        facts={"files": sum(due.values()), **due},
    )


def check_write(surroundings: Surroundings) -> Finding:
    """Check that a file can be written and read, and is not overwritten by a writer that must create it."""
    storage = surroundings.scratch
    with storage.explained("", "write a trial file to"):
        store = storage.open_store("")
        obstore.put(store, _PROBE, b"first", mode="create")
        with suppress(AlreadyExistsError):
            obstore.put(store, _PROBE, b"second", mode="create")
        content = obstore.get(store, _PROBE).bytes().to_bytes()
    if content != b"first":
        return red(
            "A file that was to be created only if it did not exist was written over",
            why="This storage does not keep what Delta commits build upon: two writers would lose one another's rows",
            remedy="Use Azure Data Lake Storage (Gen2), or a local disk",
        )
    return green("A trial file was written and read again, and not written over")


def check_list(surroundings: Surroundings) -> Finding:
    """Check that a new file is listed at once."""
    storage = surroundings.scratch
    with storage.explained("", "list"):
        names = _list_names(storage.open_store(""))
    if _PROBE not in names:
        return red(
            "The trial file can be read, but is not listed",
            why="This storage lists files late: a table's newest commits would be missed",
            remedy="Use Azure Data Lake Storage (Gen2), or a local disk",
        )
    return green("The trial file is listed")


def check_delete(surroundings: Surroundings) -> Finding:
    """Check that a file can be deleted, as maintenance does."""
    storage = surroundings.scratch
    with storage.explained("", "delete the trial file from"):
        store = storage.open_store("")
        obstore.delete(store, _PROBE)
        left = _PROBE in _list_names(store)
    if left:
        return red(
            "The trial file was deleted, and is still there",
            why="A policy of the account may keep files (immutability, legal hold)",
            remedy="Exempt the container from it: old versions of the tables could never be cleared away",
        )
    return green("The trial file was deleted")


def check_appends(surroundings: Surroundings) -> Finding:
    """Check that three commits in a row succeed, each by a writer that knows nothing of the others."""
    storage = surroundings.scratch
    try:
        versions = [_write_row(storage, "appends", f"2.25.{number}").version for number in range(1, APPENDS + 1)]
        rows = _count_rows(storage, "appends")
    except LakeError as error:
        if not re.search("Invalid table version|is not listed", str(error)):
            raise
        return red(
            f"{APPENDS} commits in a row did not succeed: {str(error).partition('. ')[0]}",
            why="The account lists a folder from its beginning where it is asked for what follows a name, so newer "
            "commits are not found",
            remedy="Check that the account is of kind StorageV2 with a hierarchical namespace; an emulator must be "
            "Azurite 3.36 or later",
        )
    if rows != APPENDS:
        return red(
            f"Of {APPENDS} rows in as many commits {rows} are there",
            why="The account does not list a table's commits in full",
            remedy="Do not write tables there; report it with the figures of this check",
            facts={"rows": rows},
        )
    return green(f"{APPENDS} commits in a row are all there", facts={"version": versions[-1]})


def check_writers(surroundings: Surroundings) -> Finding:
    """Check that of two commits at the same time neither is lost."""
    storage = surroundings.scratch
    _write_row(storage, "writers", "2.25.1")
    together = Barrier(2)

    def write(uid: str) -> Written:
        together.wait(60)
        return _write_row(storage, "writers", uid)

    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(write, ["2.25.2", "2.25.3"]))
    rows, conflicts = _count_rows(storage, "writers"), sum(each.conflicts for each in written)
    facts = {"rows": rows, "conflicts": conflicts}
    if rows != 3:  # noqa: PLR2004 — the first writer's row, and one of each concurrent writer
        return red(
            f"Two writers at the same time left {rows - 1} of 2 rows",
            why="The account lets one commit take the place of another",
            remedy="Do not write tables there; report it with the figures of this check",
            facts=facts,
        )
    return green("Two writers at the same time left the rows of both", facts=facts)


def check_clean(surroundings: Surroundings) -> Finding:
    """Check that nothing of the trials is left."""
    if not surroundings.scratch_was_used:
        return skipped("Nothing was written to the lake")
    storage = surroundings.scratch
    try:
        with storage.explained("", "clear away"):
            left = clear_away(surroundings)
    except LakeError as error:
        left, why = -1, str(error).partition(". ")[0]
    else:
        why = "A policy of the account may keep files"
    if left:
        return yellow(
            f"The trial files in {storage.uri('').rstrip('/')} could not be taken away",
            why=why,
            remedy="Delete that folder; no table needs it",
        )
    return green("The trial files are gone")


def clear_away(surroundings: Surroundings) -> int:
    """Delete the scratch folder, and the folders above it that were created for it; return the number of files left."""
    storage = surroundings.scratch
    if storage.is_local:
        folder = Path(storage.url)
        shutil.rmtree(folder, ignore_errors=True)
        made = [folder.parent, *([] if surroundings.lake_existed else [folder.parent.parent])]
        for parent in made:
            with suppress(OSError):  # the folder has other files
                parent.rmdir()
        return len(list(folder.rglob("*")))
    store = storage.open_store("")
    names = _list_names(store)
    obstore.delete(store, names)
    # A hierarchical namespace keeps empty folders.
    root = surroundings.lake.storage.open_store("")
    folders = {str(parent) for name in names for parent in Path(surroundings.scratch_path, name).parents} - {"."}
    for path in sorted(folders, key=len, reverse=True):
        with suppress(BaseError, OSError):
            obstore.delete(root, path)
    return len(_list_names(store))


def build_trial(uid: str) -> FixedRows:
    """Return one row of a trial table, to be written."""
    return FixedRows(pa.Table.from_pylist([{KEY[1].name: uid}], TRIAL.schema), TRIAL)


def _write_row(storage: Storage, path: str, uid: str) -> Written:
    """Write one row to a trial table, as a new writer."""
    return Lake(storage, {TRIAL.name: path}).write(TRIAL, build_trial(uid))


def _count_rows(storage: Storage, path: str) -> int:
    snapshot = Lake(storage, {TRIAL.name: path}).open(TRIAL)
    return 0 if snapshot is None else len(snapshot.read_table())


def _list_names(store: ObjectStore) -> list[str]:
    return [file["path"] for file in obstore.list(store).collect()]
