import dagster as dg
import pytest

from dicom_assets.config.dictionary import load_dictionary
from dicom_assets.core.columns.extra_columns import parse_extra_columns
from dicom_assets.core.columns.schema import CHANGE_FEED, TABLES, extend_tables
from dicom_assets.core.tables.healthcare import HEALTHCARE_INSTANCE
from dicom_assets.defs.assets.lineage import UPSTREAM, build_lineage

EXTRA = parse_extra_columns({"columns": {"kvp": {"tag": "KVP", "grain": "series"}}}, load_dictionary()).columns
BY_NAME = {table.name: table for table in (*extend_tables(EXTRA), HEALTHCARE_INSTANCE)}


def sources(table: str) -> dict[str, str]:
    lineage = build_lineage(BY_NAME[table])
    assert all(len(dependencies) == 1 for dependencies in lineage.deps_by_column.values())
    return {name: source.column_name for name, (source,) in lineage.deps_by_column.items()}


@pytest.mark.parametrize("table", [table.name for table in (*TABLES[1:], HEALTHCARE_INSTANCE)])
def test_every_column_comes_from_a_column_that_exists(table):
    upstream = UPSTREAM[table]
    assert list(sources(table)) == list(BY_NAME[table].schema.names)
    assert set(sources(table).values()) <= set(BY_NAME[upstream].schema.names)
    for (source,) in build_lineage(BY_NAME[table]).deps_by_column.values():
        assert source.asset_key == dg.AssetKey(upstream)


def test_feed_comes_from_no_table():
    assert build_lineage(CHANGE_FEED) is None


def test_attributes_come_from_the_metadata_and_counts_from_what_is_counted():
    assert sources("instance").items() >= {
        "patientId": "metadata", "kvp": "metadata", "sopInstanceUid": "sopInstanceUid", "filePath": "filePath",
        "lastModifiedTimestamp": "timestamp",
    }.items()  # fmt: skip
    assert sources("series").items() >= {"kvp": "kvp", "instanceCount": "sopInstanceUid"}.items()
    assert sources("study").items() >= {"modalitiesInStudy": "modality", "seriesCount": "seriesInstanceUid"}.items()
    assert sources("file_index").items() >= {"fileUrl": "filePath", "modality": "modality"}.items()
