import pytest
from pydicom.datadict import dictionary_VR

from dicom_assets.emulator.errors import InvalidUpdateError
from dicom_assets.emulator.store.updates import UPDATABLE, check_changes


def test_value_representations_are_the_standards():
    assert {tag: dictionary_VR(int(tag, 16)) for tag in UPDATABLE} == UPDATABLE


@pytest.mark.parametrize(
    ("tag", "element"),
    [
        ("00100010", {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C"}]}),
        ("00100020", {"vr": "LO", "Value": ["P1"]}),
        ("00100020", {"vr": "LO"}),
        ("00100030", {"vr": "DA", "Value": ["19700131"]}),
        ("00100032", {"vr": "TM", "Value": ["2359"]}),
        ("00101010", {"vr": "AS", "Value": ["034Y"]}),
        ("00101020", {"vr": "DS", "Value": [1.75]}),
        ("00101001", {"vr": "PN", "Value": [None]}),
    ],
)
def test_changes_the_service_makes(tag, element):
    check_changes({tag: element})


@pytest.mark.parametrize(
    ("tag", "element"),
    [
        ("00080020", {"vr": "DA", "Value": ["20260301"]}),  # not the study's date
        ("0020000D", {"vr": "UI", "Value": ["1"]}),
        ("PatientName", {"vr": "PN"}),
        ("00100010", {"vr": "LO", "Value": ["A"]}),
        ("00100010", {"vr": "PN", "Value": ["A^B"]}),
        ("00100010", "A^B"),
        ("00100020", {"vr": "LO", "Value": "P1"}),
        ("00100020", {"vr": "LO", "Value": ["x" * 65]}),
        ("00100030", {"vr": "DA", "Value": ["19701399"]}),
        ("00101020", {"vr": "DS", "Value": [{}]}),
    ],
)
def test_changes_the_service_refuses(tag, element):
    with pytest.raises(InvalidUpdateError):
        check_changes({tag: element})


def test_all_refusals_are_told_without_values():
    with pytest.raises(InvalidUpdateError) as caught:
        check_changes({"00100030": {"vr": "DA", "Value": ["secret"]}, "00080020": {}, "00100020": {"vr": "LO"}})
    assert len(caught.value.comments) == 2
    assert "secret" not in str(caught.value)


def test_changes_must_be_an_object():
    with pytest.raises(InvalidUpdateError):
        check_changes([])
