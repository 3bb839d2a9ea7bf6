"""Live instances that have a file, with where it lies."""

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.schema import FILE_INDEX


def build_file_index(instances: pa.Table, file_system: str | None) -> pa.Table:
    """One row per instance with a file, in the instances' order.

    Args:
        instances: rows of `instance`.
        file_system: what stands before a `filePath` to make its full location, such as
            `abfss://fileSystem@account.dfs.core.windows.net`; None where it is not known: `fileUrl` is null then.
    """
    rows = instances.filter(pc.is_valid(instances["filePath"]))
    if file_system is None:
        urls = pa.nulls(len(rows), pa.string())
    else:
        urls = pc.binary_join_element_wise(file_system.rstrip("/"), rows["filePath"], "/")
    return rows.append_column("fileUrl", urls).select(FILE_INDEX.schema.names).cast(FILE_INDEX.schema)
