"""Check of the service's DICOM files: whether they can be read."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dicom_assets.config.settings import Settings
from dicom_assets.core.columns.schema import FILE_INDEX
from dicom_assets.core.errors import InstanceDeletedError, InstanceFileGoneError
from dicom_assets.core.finding import Finding, Status
from dicom_assets.doctor.findings import green, red, skipped, yellow
from dicom_assets.doctor.surroundings import Surroundings
from dicom_assets.lake.table.snapshot import Snapshot

_PREAMBLE_BYTES = 132
"""Length of a DICOM file's preamble (128 bytes of any content) and of the prefix `DICM` (PS3.10, 7.1)."""


def check_files(surroundings: Surroundings) -> Finding:
    """Check that the beginning of the newest file in `file_index` can be read, and is DICOM."""
    settings = surroundings.settings
    if settings.file_system_url is None:
        return yellow(
            "DICOM_FILE_SYSTEM_URL is not set",
            why="Tables do without it: `fileUrl` is null then, and files cannot be opened by UID",
            remedy="Set it to the file system where the service keeps its DICOM files, if there is one",
        )
    snapshot = surroundings.lake.open(FILE_INDEX)
    if snapshot is None or not snapshot.row_count:
        return skipped(
            "file_index has no row yet, so there is no file to try", remedy="Materialise an hour, then ask again"
        )
    row = _newest_row(snapshot)
    facts = {"sequence": row["sequence"]}
    try:
        is_dicom = _begins_as_dicom(row, settings)
    except InstanceDeletedError as error:
        why = "Deletes reach the tables with the hour that they lie in"
        return replace(Finding.of_error("", error, Status.YELLOW), why=why, facts=facts)
    except InstanceFileGoneError as error:
        why = "DICOM_FILE_SYSTEM_URL probably names another file system than the service's, or one that does not exist"
        return replace(Finding.of_error("", error), why=why, facts=facts)
    if not is_dicom:
        return red(
            f"The file of sequence {row['sequence']} is no DICOM file: it has no DICM after its preamble",
            why="DICOM_FILE_SYSTEM_URL probably names another file system, or the file is damaged",
            remedy="Check DICOM_FILE_SYSTEM_URL",
            facts=facts,
        )
    return green(f"The DICOM file of sequence {row['sequence']} can be read", facts=facts)


def _newest_row(snapshot: Snapshot) -> Mapping[str, Any]:
    """Return the row with the greatest sequence in the data file that was written last."""
    newest = max(snapshot.files, key=lambda file: file.written_at)
    rows: list[dict[str, Any]] = snapshot.read_table(files=[newest]).sort_by("sequence").to_pylist()
    return rows[-1]


def _begins_as_dicom(row: Mapping[str, Any], settings: Settings) -> bool:
    """Return whether the row's file begins as every DICOM file does.

    Raises:
        InstanceDeletedError: the instance was deleted.
        InstanceFileGoneError: the file cannot be found.
        LakeUnavailableError: storage refuses.
    """
    from dicom_assets.query.files.instances import open_instance  # imported late: Dagster loads all checks

    with open_instance(
        row["sopInstanceUid"],
        study_instance_uid=row["studyInstanceUid"],
        series_instance_uid=row["seriesInstanceUid"],
        partition_name=row["partitionName"],
        settings=settings,
    ) as file:
        return file.read(_PREAMBLE_BYTES)[128:] == b"DICM"
