import re
from dataclasses import replace

import pyarrow as pa
import pytest
from pydicom.datadict import dictionary_keyword

from dicom_assets.core.columns.element_path import Step
from dicom_assets.core.columns.schema import (
    FILE_INDEX,
    INSTANCE,
    KEY,
    SERIES,
    STUDY,
    TABLES,
    Column,
    Grain,
    extend_tables,
)


def test_tables_in_the_order_in_which_a_change_reaches_them():
    assert [table.name for table in TABLES] == ["change_feed", "instance", "series", "study", "file_index"]


def test_keys_are_the_first_columns_of_instance_series_and_study():
    key = tuple(column.name for column in KEY)
    assert INSTANCE.key == FILE_INDEX.key == key
    assert SERIES.key == key[:3]
    assert STUDY.key == key[:2]
    for table in (INSTANCE, FILE_INDEX, SERIES, STUDY):
        assert tuple(table.schema.names[: len(table.key)]) == table.key


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_columns_are_camel_case_unique_and_described(table):
    assert len({name.casefold() for name in table.schema.names}) == len(table.columns)
    for column in table.columns:
        assert re.fullmatch(r"[a-z][A-Za-z0-9]*", column.name)
        assert column.type_name
        field = table.schema.field(column.name)
        assert field.nullable == column.nullable
        assert field.metadata[b"comment"].decode() == column.comment
        assert (column.tag or "") in column.comment
    for name in table.key:
        assert not table[name].nullable
    assert table.fence is None or not table[table.fence].nullable


TAGGED = {column.tag: column for table in TABLES for column in table.columns if column.tag}


@pytest.mark.parametrize("column", TAGGED.values(), ids=lambda column: column.name)
def test_names_are_those_of_their_tags(column):
    assert dictionary_keyword(int(column.tag, 16)).casefold() == column.name.casefold()


def test_attributes_come_from_elements_outside_the_key():
    names = [column.name for column in STUDY.attributes]
    assert "patientName" in names
    assert not {"studyInstanceUid", "partitionName", "instanceCount", "modalitiesInStudy"} & set(names)


def test_path_of_tags():
    assert Column("a", pa.string(), "", "00400275.00080104[1]").path == (Step("00400275"), Step("00080104", index=1))
    assert Column("a", pa.string(), "").path == ()


def test_path_of_something_else_than_tags_is_refused():
    with pytest.raises(ValueError, match="'StationName' is no tag"):
        _ = Column("a", pa.string(), "", "00400275.StationName").path


def test_unknown_column_or_type_is_no_silent_none():
    with pytest.raises(StopIteration):
        STUDY["none"]
    with pytest.raises(StopIteration):
        _ = Column("a", pa.binary(), "").type_name


def test_users_columns_follow_in_the_tables_that_carry_their_grain():
    extra = [(Column(grain.value, pa.string(), "x", "00080005"), grain) for grain in Grain]
    extended = {table.name: table.schema.names for table in extend_tables(extra)}
    own = {table.name: table.schema.names for table in TABLES}
    assert {name: names[len(own[name]) :] for name, names in extended.items()} == {
        "change_feed": [],
        "instance": ["study", "series", "instance"],
        "series": ["study", "series"],
        "study": ["study"],
        "file_index": [],
    }
    assert all(names[: len(own[name])] == own[name] for name, names in extended.items())


def test_extended_table_keeps_key_and_fence():
    assert replace(extend_tables([])[1]) == INSTANCE
