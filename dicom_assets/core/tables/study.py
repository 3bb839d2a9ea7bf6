"""Live instances aggregated into studies."""

import pyarrow as pa

from dicom_assets.core.columns.schema import STUDY, Table
from dicom_assets.core.tables.fold import summarize_instances
from dicom_assets.core.tables.merge import align_rows


def build_studies(instances: pa.Table, table: Table = STUDY) -> pa.Table:
    """Return one row per study: the attributes of its newest readable instance, its modalities and its counts.

    Args:
        instances: all rows of `instance` of every study in the rows. The result has null in users' columns that
            the rows lack.
        table: `study`, with the users' columns, if any.
    """
    newest, totals = summarize_instances(
        instances,
        table.key,
        [
            ("lastModifiedTimestamp", "max"),
            ("modality", "distinct"),
            ("seriesInstanceUid", "count_distinct"),
            ([], "count_all"),
        ],
    )
    modalities = ["\\".join(sorted(filter(None, values))) or None for values in totals["modality_distinct"].to_pylist()]
    rows = newest.drop_columns(["lastModifiedTimestamp"])
    rows = rows.append_column("lastModifiedTimestamp", totals["lastModifiedTimestamp_max"])
    rows = rows.append_column("modalitiesInStudy", pa.array(modalities, pa.string()))
    rows = rows.append_column("seriesCount", totals["seriesInstanceUid_count_distinct"])
    rows = rows.append_column("instanceCount", totals["count_all"])
    return align_rows(rows, table.schema)
