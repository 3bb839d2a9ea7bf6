"""Older versions of a table, by number or by time, as far as the table's log goes back."""

from datetime import datetime

from dicom_assets.core.errors import VersionGoneError
from dicom_assets.lake.table.delta import Lake
from dicom_assets.lake.table.log import read_log
from dicom_assets.lake.table.snapshot import Snapshot


def open_at(lake: Lake, newest: Snapshot, at: int | datetime | None) -> Snapshot | None:
    """Open a version of a table; return None for a time before the table was created.

    Args:
        lake: lake of the table.
        newest: newest version of the table.
        at: a version, or a time at which the version was the newest; None for the newest version.

    Raises:
        VersionGoneError: the version does not exist yet, or cannot be read any more.
        LakeUnavailableError: storage refuses.
    """
    if at is None or at == newest.version:
        return newest
    log, version = read_log(newest.folder), at
    name = newest.table.name
    if isinstance(version, datetime):
        found = log.version_at(version)
        if found is None:
            if 0 in log.commits:
                return None
            raise VersionGoneError(
                f"The log of {name} does not go back to {version.isoformat()}: it begins with version "
                f"{min(log.commits)}. Old entries are cleaned away after DICOM_RETENTION_HOURS."
            )
        version = found
    if version > newest.version:
        raise VersionGoneError(
            f"There is no version {version} of {name} yet: the newest is {newest.version}. If the table was created "
            "anew, its versions began at 0 again."
        )
    if version < 0 or not log.is_readable(version):
        raise VersionGoneError(
            f"Version {version} of {name} cannot be read any more: its log was cleaned after DICOM_RETENTION_HOURS. "
            f"The first one that can is {log.first_readable()}."
        )
    return newest if version == newest.version else lake.open(newest.table, version)
