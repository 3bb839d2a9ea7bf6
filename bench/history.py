"""A lake that has seen any number of instances, made without a feed: an hour's file after the other, in every table.

Rows are those that the feed's metadata would give, but for a few attributes; `change_feed` has no metadata, which is
read for nothing but the hour that runs.
"""

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from bench.feed import (
    START,
    file_path,
    instance_uid,
    is_ct,
    series_uid,
    series_values,
    study_uid,
    study_values,
)
from bench.ours import FILES, open_lake
from dicom_assets.core.columns.schema import CHANGE_FEED, FILE_INDEX, INSTANCE, SERIES, STUDY, TABLES
from dicom_assets.core.tables.file_index import build_file_index
from dicom_assets.core.tables.merge import align_rows
from dicom_assets.core.tables.series import build_series
from dicom_assets.core.tables.study import build_studies

STUDY_SIZE = 70
SERIES_SIZE = STUDY_SIZE // 2
ROWS_PER_HOUR = 250 * STUDY_SIZE
_HOURS_PER_COMMIT = 100
_SOP_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


def whole_hours(rows: int) -> int:
    """The nearest number of rows that whole hours have."""
    return max(1, round(rows / ROWS_PER_HOUR)) * ROWS_PER_HOUR


def build_history(folder: Path, rows: int) -> None:
    """Makes the lake, as if its hours had run one by one until the feed begins."""
    lake = open_lake(str(folder))
    snapshots = [lake.open_or_create(table) for table in TABLES]
    hours = rows // ROWS_PER_HOUR
    for first in range(0, hours, _HOURS_PER_COMMIT):
        adds: dict[str, list[AddAction]] = {table.name: [] for table in TABLES}
        for hour in range(first, min(first + _HOURS_PER_COMMIT, hours)):
            instances = build_hour(hour, hours)
            tables = {
                CHANGE_FEED.name: build_entries(instances),
                INSTANCE.name: instances,
                SERIES.name: build_series(instances),
                STUDY.name: build_studies(instances),
                FILE_INDEX.name: build_file_index(instances, FILES),
            }
            for snapshot in snapshots:
                name = snapshot.table.name
                adds[name].extend(snapshot.folder.write(align_rows(tables[name], snapshot.schema)))
        for snapshot in snapshots:
            _commit(lake.open_or_create(snapshot.table).connect(), adds[snapshot.table.name])
    for table in (INSTANCE, SERIES, STUDY, FILE_INDEX):  # which studies each file holds is known since the file is old
        lake.open_or_create(table).files_of_studies(pa.array([study_uid(0)]))


def build_hour(hour: int, hours: int) -> pa.Table:
    """The instances of an hour of the history."""
    numbers = range(hour * ROWS_PER_HOUR, (hour + 1) * ROWS_PER_HOUR)
    start = START - timedelta(hours=hours - hour)
    studies = range(numbers.start // STUDY_SIZE, numbers.stop // STUDY_SIZE)
    series = range(numbers.start // SERIES_SIZE, numbers.stop // SERIES_SIZE)
    of_study = pa.array([place // STUDY_SIZE for place in range(ROWS_PER_HOUR)])
    of_series = pa.array([place // SERIES_SIZE for place in range(ROWS_PER_HOUR)])
    by_study = [study_values(study) for study in studies]
    by_series = [series_values(number) for number in series]
    modalities = ["CT" if is_ct(study) else "MR" for study in studies]
    known = {
        "partitionName": pa.repeat("Microsoft.Default", ROWS_PER_HOUR),
        "studyInstanceUid": pa.array([study_uid(study) for study in studies]).take(of_study),
        "seriesInstanceUid": pa.array([series_uid(number) for number in series]).take(of_series),
        "sopInstanceUid": pa.array([instance_uid(number) for number in numbers]),
        "sequence": pa.array([number + 1 for number in numbers]),
        "lastModifiedTimestamp": pa.array(
            [start + timedelta(microseconds=3_600_000_000 * place // ROWS_PER_HOUR) for place in range(ROWS_PER_HOUR)]
        ),
        "filePath": pa.array([file_path(number, 1) for number in numbers]),
        "modality": pa.array(modalities).take(of_study),
        "sopClassUid": pa.array([_SOP_CLASSES[modality] for modality in modalities]).take(of_study),
        "manufacturer": pa.repeat("GE MEDICAL SYSTEMS", ROWS_PER_HOUR),
        "instanceNumber": pa.array([number % STUDY_SIZE + 1 for number in numbers]),
        "rows": pa.repeat(512, ROWS_PER_HOUR),
        "columns": pa.repeat(512, ROWS_PER_HOUR),
    }
    for column in INSTANCE.attributes:
        for values, places in ((by_study, of_study), (by_series, of_series)):
            if column.tag in values[0]:
                known[column.name] = pa.array([_value(*row[column.tag]) for row in values]).take(places)
    return align_rows(pa.table(known), INSTANCE.schema)


def build_entries(instances: pa.Table) -> pa.Table:
    """The Create entries of instances."""
    start = instances["lastModifiedTimestamp"][0]
    entries = instances.select([*INSTANCE.key, "sequence", "filePath"])
    for name, value in (
        ("timestamp", instances["lastModifiedTimestamp"]),
        ("action", pa.repeat("Create", len(instances))),
        ("state", pa.repeat("Current", len(instances))),
        ("windowStart", pa.repeat(start, len(instances))),
        ("ingestedAt", pa.repeat(start, len(instances))),
    ):
        entries = entries.append_column(name, value)
    return align_rows(entries, CHANGE_FEED.schema)


def _value(vr: str, value: object) -> object:
    if isinstance(value, dict):
        return value["Alphabetic"]
    return date(int(str(value)[:4]), int(str(value)[4:6]), int(str(value)[6:])) if vr == "DA" else value


def _commit(delta: DeltaTable, adds: list[AddAction]) -> None:
    delta.create_write_transaction(adds, "append", delta.schema())
