import json
from collections import Counter
from datetime import UTC, date, datetime

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from dicom_assets.core.columns.dicom_json import FAILURES, METADATA, UNREADABLE, count_failures
from dicom_assets.core.columns.dicom_json import build_attributes as build_rows
from dicom_assets.core.columns.schema import Column, type_names
from dicom_assets.derive.elements import split_metadata

TAG = "00080060"


def column(type_name: str, tag: str = TAG, name: str = "value") -> Column:
    return Column(name, type_names[type_name], "A value", tag)


def build_attributes(texts: list[bytes | None], columns: list[Column]) -> tuple[pa.Table, Counter]:
    """The attributes, and how often each column failed."""
    metadata = pa.chunked_array([pa.array(texts, pa.binary()).view(pa.string())])
    table = build_rows(split_metadata(metadata, columns), columns)
    return table.drop([FAILURES, UNREADABLE]), count_failures(table)


def build(elements: object, *columns: Column) -> tuple[dict, Counter]:
    text = elements if isinstance(elements, bytes) else json.dumps(elements).encode()
    table, failures = build_attributes([text], columns)
    (row,) = table.to_pylist()
    return row, failures


def convert(type_name: str, value: object) -> object:
    """The value that a column takes from an element with this first value; the text `counted` for a failure."""
    row, failures = build({TAG: {"vr": "UN", "Value": [value]}}, column(type_name))
    if failures:
        assert failures == {"value": 1}
        assert row["value"] is None
        return "counted"
    return row["value"]


def test_row_per_text_in_the_columns_types_and_order():
    columns = [column("int", "00200013", "number"), column("string", "00080060", "modality")]
    texts = [b'{"00080060":{"vr":"CS","Value":["CT"]}}', b'{"00200013":{"vr":"IS","Value":[7]}}']
    table, failures = build_attributes(texts, columns)
    assert table.schema.equals(pa.schema([each.arrow for each in columns]), check_metadata=True)
    assert table.to_pylist() == [{"number": None, "modality": "CT"}, {"number": 7, "modality": None}]
    assert not failures


@pytest.mark.parametrize(
    "element", [{"vr": "CS"}, {"Value": None}, {"Value": []}, {"Value": [None]}, {"BulkDataURI": "x"}, None,
                {"vr": "OB", "InlineBinary": "AAA="}, {"Value": [None, "CT"]}]
)  # fmt: skip
@pytest.mark.parametrize("type_name", ["string", "int", "long", "double", "date", "timestamp"])
def test_element_without_a_first_value_is_null_and_no_failure(element, type_name):
    assert build({TAG: element}, column(type_name)) == ({"value": None}, {})


@pytest.mark.parametrize("path", [TAG, "(0019,xx0C:A)"])
def test_absent_metadata_is_a_row_of_nulls_and_counted(path):
    table, failures = build_attributes([None], [column("string", path)])
    assert table.to_pylist() == [{"value": None}]
    assert failures == {METADATA: 1}


@pytest.mark.parametrize("text", [b"null", b"[]", b'"text"', b"17", b"true", b"", b"{", b'{"00080060": ', b"\xff"])
def test_metadata_that_is_no_object_is_a_row_of_nulls_and_counted(text):
    assert build(text, column("string"), column("int", name="other")) == (
        {"value": None, "other": None},
        {METADATA: 1},
    )


@pytest.mark.parametrize(("tag", "failures"), [("ffffffff", {}), (TAG, {"value": 1})])
def test_element_nested_without_end_is_counted_where_it_is_wanted(tag, failures):
    text = b'{"%s":%s}' % (tag.encode(), b"[" * 100_000 + b"]" * 100_000)
    assert build(text, column("string")) == ({"value": None}, failures)


@pytest.mark.parametrize("path", [TAG, "(0019,xx0C:A)"])
def test_metadata_with_wrong_bytes_is_unreadable_whatever_columns_there_are(path):
    text = b'{"00080060":{"Value":["\xff"]},"00190010":{"Value":["A"]},"0019100C":{"Value":["\xff"]}}'
    assert build(text, column("string", path), column("string", "00080070", "other")) == (
        {"value": None, "other": None},
        {METADATA: 1},
    )


PRIVATE_TOO = [], [column("string", "(0009,xx01:NOBODY)", "private")]


@pytest.mark.parametrize("more", PRIVATE_TOO)
@pytest.mark.parametrize("text", [
    b'{"00080060":{"vr":"CS","Value":["A"]},"00080060":{"vr":"CS","Value":["B"]}}',
    b'{"00090010":{"Value":["X"]},"00080060":{"Value":["A"]},"00090010":{"Value":["Y"]},"00080060":{"Value":["B"]}}',
    b' {"00080060":{"vr":"CS","Value":["A"]}}',
    b'{"00080060":{"vr":"CS","Value":["A",]},}',
])  # fmt: skip
def test_first_of_a_tag_that_is_there_twice_counts_whatever_columns_there_are(text, more):
    row, failures = build(text, column("string"), *more)
    assert (row["value"], failures) == ("A", {})


def test_first_of_a_private_element_that_is_there_twice_counts():
    text = (
        b'{"00090010":{"Value":["ME"]},"00090010":{"Value":["OTHER"]},'
        b'"00091001":{"Value":["A"]},"00091001":{"Value":["B"]}}'
    )
    assert build(text, column("string", "(0009,xx01:ME)")) == ({"value": "A"}, {})


@pytest.mark.parametrize("element", ["CT", 7, True, ["CT"], {"Value": "CT"}, {"Value": {"0": "CT"}}, {"Value": 7}])
def test_malformed_element_is_counted_and_spoils_no_other(element):
    columns = [column("string", "00080060", "bad"), column("string", "00080070", "good")]
    row, failures = build({"00080060": element, "00080070": {"Value": ["maker"]}}, *columns)
    assert row == {"bad": None, "good": "maker"}
    assert list(failures.items()) == [("bad", 1)]


def test_unknown_tags_and_members_are_passed_over():
    element = {"vr": "CS", "Value": ["CT"], "extra": {"deep": [1, {}]}}
    assert build({"0009xx01": 7, "group": [], TAG: element}, column("string")) == ({"value": "CT"}, {})


def test_two_columns_may_take_the_same_element():
    row, _ = build({TAG: {"Value": ["7", "8"]}}, column("string"), column("list<string>", name="all"))
    assert row == {"value": "7", "all": ["7", "8"]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", None),
        (" CT ", "CT"),
        ("CT\0", "CT"),
        ("\0 CT \0\0 ", "CT"),
        ("\0", None),
        ("  ", None),
        ({"Alphabetic": "Doe^Jane\0 "}, "Doe^Jane"),
        ({"Alphabetic": "\0"}, None),
        ("Größe\\山", "Größe\\山"),
        ("a\0b", "a\0b"),
        (7, "7"),
        (1.5, "1.5"),
        ({"Alphabetic": "Doe^Jane", "Ideographic": "山田"}, "Doe^Jane"),
        ({"Alphabetic": None}, None),
        ({"Ideographic": "山田"}, None),
        ({"Phonetic": "やまだ"}, None),
        ({}, None),
        ({"Alphabetic": ["Doe"]}, "counted"),
        ({"Name": "Doe"}, "counted"),
        (True, "counted"),
        (["CT"], "counted"),
    ],
)
def test_texts(value, text):
    assert convert("string", value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        ("7", 7),
        (" +07 ", 7),
        ("-7", -7),
        (7.0, 7),
        ("7.0", 7),
        ("1e2", 100),
        ("", None),
        ("  ", None),
        ("7\0", 7),
        ("\0 7 \0", 7),
        ("\0", None),
        ("7\x007", "counted"),
        (7.5, "counted"),
        ("7.5", "counted"),
        ("seven", "counted"),
        ("1_000", "counted"),
        ("NaN", "counted"),
        ("-inf", "counted"),
        ("+-7", "counted"),
        ("²", "counted"),
        ("9" * 5000, "counted"),
        (True, "counted"),
        (False, "counted"),
        ({"Alphabetic": "7"}, "counted"),
        ([7], "counted"),
    ],
)
@pytest.mark.parametrize("type_name", ["int", "long"])
def test_whole_numbers(type_name, value, number):
    assert convert(type_name, value) == number


@pytest.mark.parametrize(("type_name", "bits"), [("int", 32), ("long", 64)])
@pytest.mark.parametrize("form", [int, str])
def test_whole_numbers_too_large_for_their_column_are_counted(type_name, bits, form):
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert convert(type_name, form(least)) == least
    assert convert(type_name, form(greatest)) == greatest
    assert convert(type_name, form(least - 1)) == "counted"
    assert convert(type_name, form(greatest + 1)) == "counted"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (1.25, 1.25),
        ("1.25", 1.25),
        (" 1.25e-3 ", 0.00125),
        ("1.25\0", 1.25),
        ("\0\0", None),
        ("", None),
        ("NaN", "counted"),
        ("inf", "counted"),
        ("1e999", "counted"),
        ("9" * 400, "counted"),
        ("x", "counted"),
        (True, "counted"),
    ],
)
def test_decimals(value, number):
    assert convert("double", value) == number


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("20260301", date(2026, 3, 1)),
        ("2026.03.01", date(2026, 3, 1)),
        (" 20240229 ", date(2024, 2, 29)),
        ("20240229\0", date(2024, 2, 29)),
        ("2024.02.29 \0", date(2024, 2, 29)),
        ("\0", None),
        ("2024\x000229", "counted"),
        ("00010101", date(1, 1, 1)),
        ("", None),
        (" ", None),
        ("20260229", "counted"),
        ("20231399", "counted"),
        ("00000101", "counted"),
        ("2026.0301", "counted"),
        ("2026-03-01", "counted"),
        ("202603", "counted"),
        ("２０２６０３０１", "counted"),
        (20260301, "counted"),
        (True, "counted"),
    ],
)
def test_dates(value, day):
    assert convert("date", value) == day


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("20260301010203+0000", datetime(2026, 3, 1, 1, 2, 3, tzinfo=UTC)),
        ("20260301010203.5+0100", datetime(2026, 3, 1, 0, 2, 3, 500_000, tzinfo=UTC)),
        ("20260301010203+0000\0", datetime(2026, 3, 1, 1, 2, 3, tzinfo=UTC)),
        (" 20260301010203.123456-0530 ", datetime(2026, 3, 1, 6, 32, 3, 123_456, tzinfo=UTC)),
        ("", None),
        ("20260301010203", "counted"),
        ("20260301", "counted"),
        ("20261301010203+0000", "counted"),
        ("20260301010260+0000", "counted"),
        ("00010101000000+1400", "counted"),
        (20260301010203, "counted"),
    ],
)
def test_times(value, time):
    assert convert("timestamp", value) == time


def test_every_failure_of_a_column_is_counted():
    texts = [json.dumps({TAG: {"Value": [value]}}).encode() for value in (1, "x", 2**40, None, "3")]
    table, failures = build_attributes(texts, [column("int")])
    assert table["value"].to_pylist() == [1, None, None, None, 3]
    assert failures == {"value": 2}


@pytest.mark.parametrize(
    ("elements", "value"),
    [
        ({"00400275": {"Value": [{"00400008": {"Value": [{"00080104": {"Value": ["found"]}}]}}]}}, "found"),
        ({"00400275": {"Value": [{"00400008": {"Value": [{}, {"00080104": {"Value": ["second"]}}]}}]}}, None),
        ({"00400275": {"Value": [None]}}, None),
        ({"00400275": {"Value": []}}, None),
        ({"00400275": {"Value": [{}]}}, None),
        ({"00400275": {"Value": [{"00400008": None}]}}, None),
        ({"00400275": {"vr": "SQ"}}, None),
        ({"00400275": {"Value": ["text"]}}, "counted"),
        ({"00400275": {"Value": [{"00400008": "text"}]}}, "counted"),
        ({"00400275": {"Value": [{"00400008": {"Value": "text"}}]}}, "counted"),
        ({"00400275": "text"}, "counted"),
    ],
)
def test_path_goes_down_the_first_items(elements, value):
    row, failures = build(elements, column("string", "00400275.00400008.00080104"))
    assert row["value"] == (None if value == "counted" else value)
    assert failures == ({"value": 1} if value == "counted" else {})


@pytest.mark.parametrize(
    ("path", "value", "failed"),
    [
        ("00400275.00080104", "a", 0),
        ("00400275[0].00080104[0]", "a", 0),
        ("00400275[0].00080104[1]", "b", 0),
        ("00400275[1].00080104", "c", 0),
        ("00400275[1].00080104[1]", None, 0),
        ("00400275[2].00080104", None, 0),
        ("00400275[3].00080104", None, 1),
        ("00400275[4].00080104", None, 0),
        ("00280030[1]", "2", 0),
        ("00280030[9]", None, 0),
    ],
)
def test_index_means_one_of_the_values_or_items(path, value, failed):
    items = [{"00080104": {"Value": ["a", "b"]}}, {"00080104": {"Value": ["c"]}}, None, 5]
    row, failures = build({"00400275": {"Value": items}, "00280030": {"Value": [1, 2]}}, column("string", path))
    assert row == {"value": value}
    assert failures.total() == failed


PRIVATE = {
    "00190010": {"vr": "LO", "Value": ["OTHER"]},
    "00190011": {"vr": "LO", "Value": ["GEMS_ACQU_01 "]},
    "0019100C": {"vr": "DS", "Value": [1]},
    "0019110C": {"vr": "DS", "Value": [2, 3]},
    "00210010": {"vr": "LO", "Value": ["1.2.840.113681"]},
    "00211001": {"vr": "SQ", "Value": [{"00190010": {"Value": ["GEMS_ACQU_01"]}, "0019100C": {"Value": [4]}}]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("(0019,xx0C:GEMS_ACQU_01)", 2.0),
        ("(0019,xx0C:GEMS_ACQU_01)[1]", 3.0),
        ("(0019,xx0C:OTHER)", 1.0),
        ("(0019,xx0C:NOBODY)", None),
        ("(0019,xx0D:OTHER)", None),
        ("0019100C", 1.0),
        ("(0021,xx01:1.2.840.113681).(0019,xx0C:GEMS_ACQU_01)", 4.0),
        ("(0021,xx01:1.2.840.113681).(0019,xx0C:OTHER)", None),
    ],
)
def test_private_element_lies_in_the_block_that_its_creator_reserved(path, value):
    row, failures = build(PRIVATE | {"00080060": {"Value": ["CT"]}}, column("double", path), column("string", name="m"))
    assert (row, failures) == ({"value": value, "m": "CT"}, {})


@pytest.mark.parametrize("creator", [None, 5, {}, {"Value": []}, {"Value": 5}, {"Value": [None]}, {"Value": ["ELSE"]}])
def test_block_without_a_readable_creator_is_nobodys(creator):
    elements = {"00190010": creator, "0019100C": {"Value": [1]}}
    assert build(elements, column("double", "(0019,xx0C:GEMS_ACQU_01)")) == ({"value": None}, {})


def test_metadata_that_is_no_object_has_no_private_elements_either():
    assert build(b"[]", column("double", "(0019,xx0C:A)")) == ({"value": None}, {METADATA: 1})


@pytest.mark.parametrize("creator", ["ME", "ME ", "ME\0"])
def test_padding_is_no_part_of_a_creator(creator):
    elements = {"00190010": {"Value": [creator]}, "0019100C": {"Value": [1]}}
    assert build(elements, column("double", "(0019,xx0C:ME)")) == ({"value": 1.0}, {})
    nested = {"00400275": {"Value": [elements]}}
    assert build(nested, column("double", "00400275.(0019,xx0C:ME)")) == ({"value": 1.0}, {})


def test_tags_that_are_none_reach_no_query():
    text = json.dumps({"0019\"'00}": {"Value": ["A"]}, "00190010": {"Value": ["A"]}, "0019100C": {"Value": [1]}})
    assert build(text.encode(), column("double", "(0019,xx0C:A)")) == ({"value": 1.0}, {})


@pytest.mark.parametrize(
    ("vr", "text"), [("LO", "a"), ("PN", "a"), ("LT", "  a"), ("ST", "  a"), ("UT", "  a"), ("UC", "  a")]
)
def test_leading_blanks_are_part_of_long_texts_alone(vr, text):
    assert build({TAG: {"vr": vr, "Value": ["  a \0"]}}, column("string")) == ({"value": text}, {})
    nested = {"00400275": {"Value": [{TAG: {"vr": vr, "Value": ["  a \0"]}}]}}
    assert build(nested, column("string", f"00400275.{TAG}")) == ({"value": text}, {})


def test_columns_with_a_creator_may_stand_before_others():
    columns = [column("double", "(0019,xx0C:OTHER)", "a"), column("string", TAG, "b"), column("int", "0019100C", "c")]
    assert build(PRIVATE | {TAG: {"Value": ["CT"]}}, *columns) == ({"a": 1.0, "b": "CT", "c": 1}, {})


@pytest.mark.parametrize(
    ("type_name", "values", "taken", "failed"),
    [
        ("list<string>", ["a", None, {"Alphabetic": "b"}], ["a", None, "b"], 0),
        ("list<string>", ["a", True], ["a", None], 1),
        ("list<string>", ["a\0", " b ", "", "\0"], ["a", "b", None, None], 0),
        ("list<double>", ["0.5\0", " "], [0.5, None], 0),
        ("list<string>", [], [], 0),
        ("list<string>", None, None, 0),
        ("list<double>", ["0.5", 1, "", "x", "nan"], [0.5, 1.0, None, None, None], 2),
    ],
)
def test_list_takes_every_value(type_name, values, taken, failed):
    row, failures = build({TAG: {"Value": values}}, column(type_name))
    assert row == {"value": taken}
    assert failures.total() == failed


def test_list_of_a_malformed_element_is_null():
    assert build({TAG: "x"}, column("list<string>")) == ({"value": None}, {"value": 1})


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
              st.text(max_size=9),
              st.sampled_from(["20260301", "2026.03.01", "20260301010203+0100", "1_0", "nan", "٣", "", "-0"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["Value", "vr", "Alphabetic", "00080060", "00400275"]), inner, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip
ALL_TYPES = [
    column(name, tag, f"{name}{tag}")
    for name in type_names
    for tag in ("00080060", "00400275.00080060", "(0019,xx0C:A).00080060[1]")
]


@given(st.dictionaries(st.sampled_from(["00080060", "00400275", "group"]), json_values, max_size=3) | json_values)
@settings(max_examples=200)
def test_no_metadata_raises(metadata):
    row, failures = build(metadata, *ALL_TYPES)
    assert list(row) == [each.name for each in ALL_TYPES]
    assert (not isinstance(metadata, dict)) <= (failures[METADATA] == 1)
    assert set(failures) <= {*row, METADATA}


@given(
    st.lists(
        st.none()
        | st.dictionaries(st.sampled_from(["00080060", "00400275", "0008103e", "g"]), json_values, max_size=4),
        max_size=4,
    )
)
@settings(max_examples=200)
def test_many_texts_at_a_time_give_what_they_give_one_by_one(metadata):
    plain = [each for each in ALL_TYPES if each.path[0].creator is None]
    texts = [None if elements is None else json.dumps(elements).encode() for elements in metadata]
    together, _ = build_attributes(texts, plain)
    one_by_one, _ = build_attributes(texts, [column("string", "(0019,xx0C:A)", "private"), *plain])
    assert together.to_pylist() == one_by_one.drop(["private"]).to_pylist()


@given(st.binary(max_size=40))
@settings(max_examples=100)
def test_no_bytes_raise(text):
    build(text, *ALL_TYPES)
