import tomllib

import msgspec
import pyarrow as pa
import pytest

from dicom_assets.core.errors import SettingsError
from dicom_assets.core.extra_columns import parse_extra_columns
from dicom_assets.core.schema import Column, Grain, extend_tables, type_names

ENTRY = {"name": "kvp", "tag": "00180060", "type": "double", "grain": "instance", "description": "Peak kilovoltage"}


def parse(*entries: object) -> tuple[tuple[Column, Grain], ...]:
    return parse_extra_columns({"columns": list(entries)})


def test_entry_becomes_column_with_its_grain():
    assert parse(ENTRY) == ((Column("kvp", pa.float64(), "Peak kilovoltage", "00180060"), Grain.INSTANCE),)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("00180050", "00180050"),
        ("0008103e", "0008103E"),
        ("(0018,0050)", "00180050"),
        ("( 0018, 0050 )", "00180050"),
        ("0018,0050", "00180050"),
        ("00400275.00321064", "00400275.00321064"),
        ("00400275.0032 1064", "00400275.00321064"),
        ("(0040,0275).(0032,1064) . 00080100", "00400275.00321064.00080100"),
    ],
)
def test_tag_is_normalised(given, normal):
    ((column, _),) = parse(ENTRY | {"tag": given})
    assert column.tag == normal
    assert column.path == tuple(normal.split("."))


@pytest.mark.parametrize("name", type_names)
def test_every_type_name_can_be_used(name):
    ((column, _),) = parse(ENTRY | {"type": name})
    assert column.type == type_names[name]
    assert column.type_name == name


def test_description_may_be_left_out():
    ((column, _),) = parse({field: value for field, value in ENTRY.items() if field != "description"})
    assert "DICOM_EXTRA_COLUMNS" in column.description


def test_columns_reach_the_tables_of_their_grain():
    extra = parse(*(ENTRY | {"name": f"{grain}Extra", "grain": grain.value} for grain in Grain))
    names = {
        table.name: [column.name for column in table.columns if column.name.endswith("Extra")]
        for table in extend_tables(extra)
    }
    assert names == {
        "change_feed": [],
        "instance": ["studyExtra", "seriesExtra", "instanceExtra"],
        "series": ["studyExtra", "seriesExtra"],
        "study": ["studyExtra"],
        "file_index": [],
    }


def test_toml_and_yaml_say_the_same():
    toml = '[[column]]\nname = "kvp"\ntag = "(0018,0060)"\ntype = "double"\ngrain = "instance"\n'
    yaml = "columns:\n- {name: kvp, tag: '00180060', type: double, grain: instance}\n"
    assert parse_extra_columns(tomllib.loads(toml)) == parse_extra_columns(msgspec.yaml.decode(yaml.encode()))


def test_empty_list_adds_nothing():
    assert parse() == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "decimal"}, ["type", "'decimal'", "list<string>"]),
        ({"grain": "patient"}, ["grain", "'patient'", "study, series, instance"]),
        ({"tag": "0018005"}, ["tag", "'0018005'"]),
        ({"tag": "PatientID"}, ["tag", "'PatientID'"]),
        ({"tag": "00400275."}, ["tag", "sequence"]),
        ({"tag": ""}, ["tag"]),
        ({"tag": 180060}, ["tag: must be text", "quotes"]),
        ({"name": "Kvp"}, ["name", "'Kvp'", "camelCase"]),
        ({"name": "k_vp"}, ["name", "camelCase"]),
        ({"name": "kvp\n"}, ["name", "camelCase"]),
        ({"name": ""}, ["name", "camelCase"]),
        ({"name": "patientID"}, ["name", "'patientID'", "'patientId'"]),
        ({"name": "windowstart"}, ["'windowStart'"]),
        ({"description": 5}, ["description: must be text"]),
        ({"unit": "kV"}, ["unit: no such field", "name, tag, type, grain, description"]),
    ],
)
def test_error_names_entry_and_field(change, told):
    with pytest.raises(SettingsError, match=r"^entry 2: ") as caught:
        parse(ENTRY | {"name": "other"}, ENTRY | change)
    for words in told:
        assert words in str(caught.value)


@pytest.mark.parametrize("field", ["name", "tag", "type", "grain"])
def test_missing_field_is_named(field):
    with pytest.raises(SettingsError, match=f"^entry 1: {field}: is missing$"):
        parse({name: value for name, value in ENTRY.items() if name != field})


def test_columns_that_differ_only_in_case_collide():
    with pytest.raises(SettingsError, match="entry 2: name: 'kVp' is taken by the column 'kvp'"):
        parse(ENTRY, ENTRY | {"name": "kVp"})


def test_every_problem_is_listed():
    with pytest.raises(SettingsError) as caught:
        parse({"name": 5, "typ": "int"}, ENTRY, "kvp")
    for words in (
        "entry 1: typ: no such",
        "entry 1: name: must be text",
        "entry 1: tag: is missing",
        "entry 3: is no table",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("document", [None, [], {}, {"column": [], "columns": []}, {"cols": []}, {"columns": {}}, "x"])
def test_document_of_another_shape_is_refused(document):
    with pytest.raises(SettingsError, match="columns"):
        parse_extra_columns(document)
