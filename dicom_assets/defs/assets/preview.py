"""Preview of some rows of a run, without patient data."""

from datetime import datetime

import dagster as dg
import pyarrow as pa

COLUMNS = {
    "change_feed": ("sequence", "timestamp", "action", "state"),
    "instance": ("sequence", "lastModifiedTimestamp", "modality", "numberOfFrames", "rows", "columns"),
    "series": ("lastModifiedTimestamp", "modality", "instanceCount"),
    "study": ("lastModifiedTimestamp", "modalitiesInStudy", "seriesCount", "instanceCount"),
    "file_index": ("sequence", "lastModifiedTimestamp", "modality"),
    "healthcare_instance": ("lastModifiedTimestamp", "modality"),
}
"""Columns that a preview shows, by table; no other column is ever shown."""

_MODALITIES = """
ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER
KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE
RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
"""
"""Defined terms of Modality. Source: DICOM PS3.3 C.7.3.1.1.1."""

WORDS = frozenset([*_MODALITIES.split(), "create", "update", "delete", "current", "replaced", "deleted"])
"""Texts that a preview shows. A service accepts any text as a modality, so other texts could hold patient data."""


def build_preview(table: str, rows: pa.Table) -> dg.MetadataValue[str] | None:
    """Return the rows as a Markdown table; None where the table has no columns to show, or there are no rows."""
    columns = [name for name in COLUMNS.get(table, ()) if name in rows.column_names]
    if not columns or not len(rows):
        return None
    lines = [columns, ["---"] * len(columns)]
    lines += [[_show(row[name]) for name in columns] for row in rows.select(columns).to_pylist()]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _show(value: object) -> str:
    if isinstance(value, str):
        words = value.split("\\")
        return ", ".join(word if word in WORDS or word.lower() in WORDS else "(other)" for word in words)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    return "" if value is None else str(value)
