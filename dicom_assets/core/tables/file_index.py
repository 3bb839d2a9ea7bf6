"""Live instances that have a file, with the location of the file."""

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.core.columns.schema import FILE_INDEX


def build_file_index(instances: pa.Table, file_system: str | None) -> pa.Table:
    """Return one row per instance that has a file, in the order of the instances.

    Args:
        instances: rows of `instance`.
        file_system: URL of the file system, such as `abfss://fileSystem@account.dfs.core.windows.net`; this URL and
            `filePath` make `fileUrl`. None if the file system is not known: `fileUrl` is then null.
    """
    rows = instances.filter(pc.is_valid(instances["filePath"]))
    if file_system is None:
        urls = pa.nulls(len(rows), pa.string())
    else:
        urls = pc.binary_join_element_wise(file_system.rstrip("/"), rows["filePath"], "/")
    return rows.append_column("fileUrl", urls).select(FILE_INDEX.schema.names).cast(FILE_INDEX.schema)
