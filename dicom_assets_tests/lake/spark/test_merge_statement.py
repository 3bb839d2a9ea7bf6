"""The MERGE of every table is made from its columns, and tells nothing of its rows."""

from dataclasses import replace

import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED, SERIES, STUDY, TABLES
from dicom_assets.lake.files.scope import Scope
from dicom_assets.lake.spark.merge_statement import build_merge
from dicom_assets_tests.core.tables.rows import build_rows, entry


def build(table, **options):
    return build_merge(table, table.schema.names, "file:///lake/t", "file:///lake/_staging/s.parquet", **options)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_is_inserted_and_all_but_the_key_updated(table):
    statement = build(table)
    update = statement.partition("UPDATE SET ")[2].partition("\n")[0]
    inserted = statement.partition("INSERT (")[2].partition(")")[0]
    for name in set(table.schema.names) - {*table.key, *table.ignored}:
        assert statement.count(f"t.`{name}` <=> s.`{name}`") == statement.count(f"o.`{name}` <=> s.`{name}`") == 1
    assert inserted.split(", ") == [f"`{name}`" for name in table.schema.names]
    assert update.split(", ") == [f"`{name}` = s.`{name}`" for name in table.schema.names if name not in table.key]


def test_fence_holds_where_a_table_has_one_and_ignored_columns_are_not_compared():
    assert build(CHANGE_FEED).count("t.`ingestedAt` <= s.`ingestedAt`") == 2
    assert "`ingestedAt` <=>" not in build(CHANGE_FEED)
    assert " <= " not in build(SERIES)


def test_columns_of_former_days_become_null_in_rows_that_change():
    statement = build_merge(STUDY, [*STUDY.schema.names, "wardName"], "t", "s")
    assert ", `wardName` = NULL\n" in statement


def test_rows_of_one_service_are_merged_in_its_partition_alone():
    statement = build(STUDY, scope=Scope("north"))
    for row in "to":
        assert f"ON {row}.`serviceName` = 'north' AND {row}.`partitionName` = s.`partitionName`" in statement
    assert "INSERT (`serviceName`, `partitionName`, " in statement
    assert "VALUES ('north', s.`partitionName`, " in statement
    assert "serviceName" not in statement.partition("UPDATE SET ")[2].partition("\n")[0]


def test_locations_and_columns_are_quoted():
    column = replace(STUDY.columns[-1], name="a`b")
    statement = build_merge(replace(STUDY, columns=(*STUDY.columns, column)), ["a`b"], "file:///it`s", "s")
    assert "delta.`file:///it``s`" in statement
    assert "s.`a``b`" in statement


def test_no_value_is_in_it_but_hours_and_sequences():
    rows = build_rows([entry(17, metadata="secret", studyInstanceUid="2.25.99"), entry(52)], CHANGE_FEED)
    statement = build(CHANGE_FEED, keys=rows)
    assert "t.`sequence` BETWEEN 17 AND 52" in statement
    assert "t.`windowStart` BETWEEN TIMESTAMP '" in statement
    assert "secret" not in statement
    assert "2.25.99" not in statement
