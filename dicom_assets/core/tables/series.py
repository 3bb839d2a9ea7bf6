"""Live instances aggregated into series."""

import pyarrow as pa

from dicom_assets.core.columns.schema import SERIES, Table
from dicom_assets.core.tables.fold import summarize_instances
from dicom_assets.core.tables.merge import align_rows


def build_series(instances: pa.Table, table: Table = SERIES) -> pa.Table:
    """Return one row per series: the attributes of its newest readable instance, and its number of instances.

    Args:
        instances: all rows of `instance` of every series in the rows. The result has null in users' columns that
            the rows lack.
        table: `series`, with the users' columns, if any.
    """
    newest, totals = summarize_instances(instances, table.key, [("lastModifiedTimestamp", "max"), ([], "count_all")])
    rows = newest.drop_columns(["lastModifiedTimestamp"])
    rows = rows.append_column("lastModifiedTimestamp", totals["lastModifiedTimestamp_max"])
    rows = rows.append_column("instanceCount", totals["count_all"])
    return align_rows(rows, table.schema)
