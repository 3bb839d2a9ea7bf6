"""The layout that Fabric's healthcare data solutions are fed with."""

import json
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from dicom_assets.core.columns.schema import CHANGE_FEED
from dicom_assets.core.tables.healthcare import (
    HEALTHCARE_INSTANCE,
    build_healthcare_instances,
    find_source,
    read_elements,
)
from dicom_assets.derive.elements import read_attributes
from dicom_assets_tests.core.tables.rows import build_entries, entry
from dicom_assets_tests.defs.assets.test_template_tables import LAYOUTS

WHEN = datetime(2026, 3, 1, 5, 10, tzinfo=UTC)
READ = datetime(2026, 3, 1, 6, 15, tzinfo=UTC)


def build(metadata: str | None) -> tuple[dict, dict]:
    entry = {
        **{"partitionName": "Microsoft.Default", "studyInstanceUid": "1", "seriesInstanceUid": "2"},
        **{"sopInstanceUid": "3", "sequence": 7, "timestamp": WHEN, "action": "Create", "state": "Current"},
        **{"filePath": "a/3.dcm", "metadata": metadata, "windowStart": WHEN.replace(minute=0), "ingestedAt": READ},
    }
    entries = pa.Table.from_pylist([entry], CHANGE_FEED.schema)
    rows, failures = build_healthcare_instances(entries, read_attributes(entries, HEALTHCARE_INSTANCE))
    assert rows.schema.equals(HEALTHCARE_INSTANCE.schema)
    (row,) = rows.to_pylist(maps_as_pydicts="strict")
    return row, dict(failures)


def test_layout_is_that_of_the_gallery_template():
    ours = [(column.name, column.type) for column in HEALTHCARE_INSTANCE.columns]
    assert ours == [(field.name, field.type) for field in LAYOUTS["gallery"]["instance"]]


def test_row_has_texts_as_they_were_sent_and_the_whole_metadata():
    metadata = {
        "00080020": {"vr": "DA", "Value": ["2026.03.01"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00200013": {"vr": "IS", "Value": [12]},
        "00201208": {"vr": "IS", "Value": ["40"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
    }
    row, failures = build(json.dumps(metadata))
    assert failures == {}
    assert (row["studydate"], row["studydate_formatted"]) == ("2026.03.01", date(2026, 3, 1))
    assert (row["patientname"], row["instancenumber"], row["numberofstudyrelatedinstances"]) == ("Doe^Jane", "12", "40")
    assert (row["studyinstanceuid"], row["seriesinstanceuid"], row["sopinstanceuid"]) == ("1", "2", "3")
    assert (row["filepath"], row["lastModifiedTimestamp"], row["created_date"]) == ("a/3.dcm", WHEN, READ)
    assert json.loads(row["metadata_string"]) == metadata
    assert row["metadata"]["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}
    assert row["modalitiesinstudy"] == "CT"


@pytest.mark.parametrize(
    ("element", "values"),
    [
        ({"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}, ['{"Alphabetic":"Doe^Jane"}']),
        ({"vr": "DS", "Value": [5.0, 1e-7]}, ["5.0", "1e-7"]),
        ({"vr": "LO", "Value": ["Größe \\ \"ß\"", None, ""]}, ["Größe \\ \"ß\"", None, ""]),
        ({"vr": "SQ", "Value": [{"00080100": {"vr": "SH"}}]}, ['{"00080100":{"vr":"SH"}}']),
        ({"vr": "OW", "BulkDataURI": "https://…"}, None),
        ({"vr": "LO"}, None),
        ({"vr": "LO", "Value": []}, []),
    ],
)  # fmt: skip
def test_value_of_the_map_is_a_text_or_json(element, values):
    text = json.dumps({"00080060": element}, separators=(",", ":")).replace("1e-07", "1e-7")
    assert read_elements([text]).to_pylist() == [[("00080060", {"vr": element["vr"], "Value": values})]]


@pytest.mark.parametrize("metadata", ["[]", '"CT"', "{", '{"00080060": {"vr": "CS"'])
def test_metadata_that_is_no_json_object_has_no_map_and_keeps_its_text(metadata):
    row, failures = build(metadata)
    assert row["metadata"] is None
    assert row["metadata_string"] == metadata
    assert failures == {"metadata": 1}


@pytest.mark.parametrize("broken", ['"CT"', '{"vr": "CS", "Value": "CT"}', '{"vr": 1}'])
def test_element_that_is_none_leaves_the_others_as_they_are(broken):
    text = f'{{"00080060": {broken}, "00100020": {{"vr": "LO", "Value": ["P1"]}}}}'
    (elements,) = read_elements([text]).to_pylist(maps_as_pydicts="strict")
    assert elements == {"00080060": {"vr": None, "Value": None}, "00100020": {"vr": "LO", "Value": ["P1"]}}


def test_instance_without_metadata_has_its_key_and_path():
    row, failures = build(None)
    assert failures == {"metadata": 1}
    assert {name for name, value in row.items() if value is not None} == {
        "partitionName", "studyinstanceuid", "seriesinstanceuid", "sopinstanceuid", "lastModifiedTimestamp",
        "filepath", "created_date",
    }  # fmt: skip


def test_every_column_says_where_it_comes_from():
    sources = {column.name: find_source(column) for column in HEALTHCARE_INSTANCE.columns}
    assert set(sources.values()) <= set(CHANGE_FEED.schema.names)
    assert sources["sopinstanceuid"] == "sopInstanceUid"
    assert sources["modality"] == "metadata"


@pytest.mark.parametrize("blank", ["", " "])
def test_first_of_a_tag_that_is_there_twice_counts_in_the_map_too(blank):
    text = f'{{"00080060":{blank}{{"vr":"CS","Value":["CT"]}},"00080060":{{"vr":"CS","Value":["MR"]}}}}'
    entries = build_entries(entry(metadata=text))
    rows, _ = build_healthcare_instances(entries, read_attributes(entries, HEALTHCARE_INSTANCE))
    assert rows["modality"].to_pylist() == ["CT"]
    assert dict(rows["metadata"].to_pylist()[0])["00080060"]["Value"] == ["CT"]
