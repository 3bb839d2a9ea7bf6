"""Rows for the tests: only what a test is about is spelt out, the rest has some value."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from dicom_assets.core.columns.schema import CHANGE_FEED, INSTANCE, Table

START = datetime(2026, 3, 1, tzinfo=UTC)


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def build_rows(rows: list[dict], table: Table) -> pa.Table:
    """Rows of a table; null in the columns that a row does not name."""
    return pa.Table.from_pylist([{name: row.get(name) for name in table.schema.names} for row in rows], table.schema)


def entry(sequence: int = 1, **columns: object) -> dict:
    """A row of `change_feed`; its metadata may be given as an object."""
    metadata = columns.pop("metadata", {})
    at = moment(sequence)
    return {
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": "1",
        "seriesInstanceUid": "1.1",
        "sopInstanceUid": "1.1.1",
        "sequence": sequence,
        "timestamp": at,
        "action": "Create",
        "state": "Current",
        "metadata": metadata if metadata is None or isinstance(metadata, str) else json.dumps(metadata),
        "windowStart": at.replace(minute=0, second=0),
        "ingestedAt": at,
    } | columns


def build_entries(*rows: dict) -> pa.Table:
    return build_rows(list(rows), CHANGE_FEED)


def instance(sequence: int = 1, **columns: object) -> dict:
    """A row of `instance`."""
    return {
        "partitionName": "Microsoft.Default",
        "studyInstanceUid": "1",
        "seriesInstanceUid": "1.1",
        "sopInstanceUid": f"1.1.{sequence}",
        "sequence": sequence,
        "lastModifiedTimestamp": moment(sequence),
    } | columns


def build_instance_rows(*rows: dict) -> pa.Table:
    return build_rows(list(rows), INSTANCE)
