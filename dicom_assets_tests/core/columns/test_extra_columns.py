import tomllib

import pyarrow as pa
import pytest

from dicom_assets.config.dictionary import load_dictionary
from dicom_assets.core.columns.extra_columns import ExtraColumns, parse_extra_columns
from dicom_assets.core.columns.schema import Column, Grain, extend_tables, type_names

ENTRY = {"name": "kvp", "tag": "00180060", "type": "double", "grain": "instance", "description": "Peak kilovoltage"}
CODE = "00400275.00321064.00080100"


def parse(document: object) -> ExtraColumns:
    return parse_extra_columns(document, load_dictionary())


def column(**fields: object) -> Column:
    """The column of one good entry."""
    found = parse({"columns": [{"name": "x", "tag": "KVP"} | fields]})
    assert found.problems == ()
    ((column, _),) = found.columns
    return column


def problem(**fields: object) -> str:
    """What is wrong with the second of two entries."""
    found = parse({"columns": [ENTRY, {"name": "x", "tag": "KVP"} | fields]})
    ((place, text),) = [(problem.place, problem.text) for problem in found.problems]
    assert place[:2] == ("columns", 1)
    assert text.startswith(f"{place[2]}: ")
    return text


def test_entry_becomes_column_with_its_grain():
    assert parse({"columns": [ENTRY]}) == ExtraColumns(
        ((Column("kvp", pa.float64(), "Peak kilovoltage", "00180060"), Grain.INSTANCE),)
    )


def test_a_line_is_enough():
    (found,) = parse({"columns": {"kvp": "KVP"}}).columns
    assert found == (Column("kvp", pa.float64(), "Added by DICOM_EXTRA_COLUMNS", "00180060"), Grain.INSTANCE)


@pytest.mark.parametrize(
    "text",
    [
        '[columns]\nkvp = "KVP"',
        '[columns]\nkvp = {tag = "(0018,0060)", grain = "instance"}',
        '[columns.kvp]\ntag = "00180060"\ntable = "instance"\ntype = "double"',
        '[[columns]]\nname = "kvp"\ntag = "0018,0060"',
        '[[column]]\nname = "kvp"\ntag = "( 0018, 0060 )"',
        'columns = [{name = "kvp", tag = "KVP"}]',
    ],
)
def test_every_form_of_the_file_says_the_same(text):
    assert parse(tomllib.loads(text)) == parse({"columns": {"kvp": "KVP"}})


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("SliceThickness", "00180050"),
        ("0008103e", "0008103E"),
        ("RequestAttributesSequence.RequestedProcedureCodeSequence.CodeValue", CODE),
        ("(0040,0275).(0032,1064) . 00080100", CODE),
        ("00400275.0032 1064.CodeValue", CODE),
        ("RequestAttributesSequence[1].RequestedProcedureID", "00400275[1].00401001"),
        ("PixelSpacing[ 0 ]", "00280030[0]"),
        ("60020010", "60020010"),
    ],
)
def test_keywords_tags_and_paths_become_tags(given, normal):
    found = column(tag=given)
    assert found.tag == normal
    assert ".".join(map(str, found.path)) == normal


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("00191002", "00191002"),
        ("(0019,xx0c:GEMS_ACQU_01)", "(0019,xx0C:GEMS_ACQU_01)"),
        ("( 0019, XX0c : 1.2.840.113681 )[2]", "(0019,xx0C:1.2.840.113681)[2]"),
        ("00400275.(0019,xx0C:1.2.840.11111111)", "00400275.(0019,xx0C:1.2.840.11111111)"),
        ("(0019,xx0C:A B).00080100", "(0019,xx0C:A B).00080100"),
    ],
)
def test_private_elements_are_named_by_number_or_by_their_creator(given, normal):
    assert column(tag=given, type="string").tag == normal


@pytest.mark.parametrize(
    ("tag", "type_name"),
    [
        ("KVP", "double"),
        ("SeriesNumber", "int"),
        ("Rows", "int"),
        ("RegionFlags", "long"),
        ("StudyDate", "date"),
        ("StudyTime", "string"),
        ("AcquisitionDateTime", "string"),
        ("OperatorsName", "list<string>"),
        ("ImageType", "list<string>"),
        ("ImageType[2]", "string"),
        ("PixelSpacing", "list<double>"),
        ("PixelSpacing[1]", "double"),
        ("SmallestImagePixelValue", "int"),
    ],
)
def test_type_follows_from_the_dictionary(tag, type_name):
    assert column(tag=tag).type_name == type_name


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("PatientAge", {"string", "list<string>"}),
        ("StudyDate", {"date", "string", "list<string>"}),
        ("AcquisitionDateTime", {"timestamp", "string", "list<string>"}),
        ("KVP", {"double", "string", "list<string>", "list<double>"}),
        ("Rows", {"int", "long", "double", "string", "list<string>", "list<double>"}),
        ("RegionFlags", {"long", "double", "string", "list<string>", "list<double>"}),
        ("FileOffsetInContainer", {"long", "string", "list<string>"}),
        ("00191002", set(type_names)),
    ],
)
def test_only_types_that_hold_the_values_are_taken(tag, names):
    for name in type_names:
        if name in names:
            assert column(tag=tag, type=name).type == type_names[name]
        else:
            assert f"type: {name!r} cannot hold the values of {tag} (" in problem(tag=tag, type=name)


def test_columns_reach_the_tables_of_their_grain():
    extra = parse({"columns": {f"{grain}Extra": {"tag": "KVP", "grain": grain.value} for grain in Grain}}).columns
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


def test_empty_list_adds_nothing():
    assert parse({"columns": []}) == parse({"columns": {}}) == ExtraColumns()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "decimal"}, ["type: 'decimal' is unknown", "list<string>"]),
        ({"type": "date", "tag": "PatientName"}, ["'date' cannot hold", "PatientName (0010,0010)", "PN", "string"]),
        ({"type": "list<double>", "tag": "PixelSpacing[0]"}, ["type: ", "takes all values", "[0]"]),
        ({"grain": "patient"}, ["grain: 'patient'", "study, series, instance"]),
        ({"tag": "SliceThicknes"}, ["tag: SliceThicknes is no keyword", "Did you mean SliceThickness?"]),
        ({"tag": "slicethickness"}, ["Did you mean SliceThickness?"]),
        ({"tag": "HairColour"}, ["tag: HairColour is no keyword", "PS3.6"]),
        ({"tag": "0018005"}, ["tag: '0018005' is neither a keyword nor a tag"]),
        ({"tag": "00180003"}, ["tag: 00180003 is no tag", "Did you mean"]),
        ({"tag": "FAFCFAFE"}, ["tag: FAFCFAFE is no tag", "PS3.6"]),
        ({"tag": "00400275."}, ["tag: '' is neither", "sequence"]),
        ({"tag": ""}, ["tag: '' is neither"]),
        ({"tag": "PixelSpacing[x]"}, ["tag: 'PixelSpacing[x]' is neither"]),
        ({"tag": "PixelSpacing[-1]"}, ["tag: 'PixelSpacing[-1]' is neither"]),
        ({"tag": "(0018,xx0C:NOBODY)"}, ["tag: '(0018,xx0C:NOBODY)' is neither"]),
        ({"tag": 180060}, ["tag: 180060 is no text", "quotes"]),
        ({"tag": "OverlayRows"}, ["tag: OverlayRows is in several groups, 60xx0010"]),
        ({"tag": "RequestAttributesSequence"}, ["is a sequence", "RequestAttributesSequence.KEYWORD"]),
        ({"tag": "StationName.CodeValue"}, ["tag: StationName (0008,1010) is no sequence"]),
        ({"tag": "TransferSyntaxUID"}, ["tag: TransferSyntaxUID (0002,0010)", "would stay empty"]),
        ({"tag": "PixelData"}, ["tag: PixelData (7FE0,0010)", "bulk", "would stay empty"]),
        ({"tag": "00191002"}, ["type: is missing", "private"]),
        ({"name": "Kvp"}, ["name: 'Kvp'", "camelCase"]),
        ({"name": "_metadata"}, ["name: ", "camelCase"]),
        ({"name": "_change_type"}, ["name: ", "camelCase"]),
        ({"name": "kvp\n"}, ["name: ", "camelCase"]),
        ({"name": "größe"}, ["name: ", "camelCase"]),
        ({"name": ""}, ["name: ", "camelCase"]),
        ({"name": "patientID"}, ["name: 'patientID'", "patientId of the table"]),
        ({"name": "windowstart"}, ["windowStart of the table change_feed"]),
        ({"name": "fileurl"}, ["fileUrl of the table file_index"]),
        ({"name": "select"}, ["name: 'select' is a word of SQL"]),
        ({"description": 5}, ["description: 5 is no text"]),
        ({"keyword": "KVP"}, ["keyword: there is no such field", "Did you mean tag?"]),
        ({"typ": "int"}, ["typ: there is no such field", "Did you mean type?"]),
        ({"unit": "kV"}, ["unit: there is no such field", "Known are name, tag, type, grain, description"]),
        ({"grain": "series", "table": "study"}, ["table: ", "grain and table are one"]),
    ],
)
def test_error_names_the_field_and_what_to_do(fields, told):
    text = problem(**fields)
    for words in told:
        assert words in text


@pytest.mark.parametrize("field", ["name", "tag"])
def test_missing_field_is_named(field):
    (found,) = parse({"columns": [{name: value for name, value in ENTRY.items() if name != field}]}).problems
    assert found.text.startswith(f"{field}: is missing. Add it")
    assert found.place == ("columns", 0, field)


def test_columns_that_differ_only_in_case_collide():
    (found,) = parse({"columns": {"kvp": "KVP", "other": "KVP", "kVp": "KVP"}}).problems
    assert found.text.startswith("name: 'kVp' was given before")
    assert (found.place, found.other) == (("columns", "kVp", "name"), ("columns", "kvp"))


def test_one_element_can_be_shown_in_several_columns():
    found = parse({"columns": {"spacing": "PixelSpacing", "rowSpacing": "PixelSpacing[0]", "same": "PixelSpacing"}})
    assert [column.tag for column, _ in found.columns] == ["00280030", "00280030[0]", "00280030"]


def test_every_problem_is_listed():
    found = parse({"column": [{"name": 5, "typ": "int"}, ENTRY, "kvp"], "columns": 5, "else": 1})
    assert [(problem.place, problem.text.split(":")[0]) for problem in found.problems] == [
        (("column", 0, "name"), "name"),
        (("column", 0, "typ"), "typ"),
        (("column", 0, "tag"), "tag"),
        (("column", 2), 'This is no entry. Write { name = "kvp", tag = "KVP" }.'),
        (("columns",), '"columns" holds no columns. Give each a line below it'),
        (("else",), "'else' has no meaning here. Put the columns under the key \"columns\"."),
    ]


def test_a_column_has_one_name():
    (found,) = parse({"columns": {"kvp": {"tag": "KVP", "name": "other"}}}).problems
    assert "stands before it already: kvp" in found.text


@pytest.mark.parametrize("document", [None, [], {}, "x"])
def test_document_without_entries_is_refused(document):
    (found,) = parse(document).problems
    assert (found.place, "nothing in it" in found.text) == ((), True)
