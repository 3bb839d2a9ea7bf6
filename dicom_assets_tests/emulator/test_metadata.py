import math
import warnings

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicom_assets.emulator.metadata import build_dataset, decode, encode, first_value, read_metadata
from dicom_assets_tests.emulator.conftest import metadata_of


def raw(tag, vr, value):
    return RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def test_bulk_data_is_left_out_at_every_level():
    item = Dataset()
    item.CodeValue = "1"
    item.add_new(0x00420011, "OB", b"%PDF")
    dataset = Dataset()
    dataset.PatientID = "P1"
    dataset.add_new(0x7FE00010, "OW", b"\0\0")
    dataset.add_new(0x00091001, "UN", b"x")
    dataset.add_new(0x54001010, "OB or OW", b"\0\0")
    dataset.ConceptNameCodeSequence = Sequence([item])
    read = read_metadata(dataset)
    assert read.metadata == {
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "0040A043": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["1"]}}]},
    }
    assert read.dropped == ()


def test_elements_without_value_stay_without_value():
    dataset = Dataset()
    dataset.PatientID = ""
    dataset.ConceptNameCodeSequence = Sequence()
    assert read_metadata(dataset).metadata == {"00100020": {"vr": "LO"}, "0040A043": {"vr": "SQ"}}


def test_unreadable_element_is_dropped_and_told():
    dataset = Dataset()
    dataset.PatientID = "P1"
    dataset[0x00280008] = raw(0x00280008, "IS", b"many")
    dataset[0x00180050] = raw(0x00180050, "DS", b"thick ")
    dataset.add_new(0x00189074, "FD", math.inf)
    dataset.add_new(0x00280106, "US or SS", 1)
    read = read_metadata(dataset)
    assert set(read.metadata) == {"00100020"}
    assert set(read.dropped) == {"(0018,0050)", "(0028,0008)", "(0018,9074)", "(0028,0106)"}


def test_bad_values_that_are_text_are_kept_without_a_warning():
    dataset = Dataset()
    dataset[0x00080020] = raw(0x00080020, "DA", b"20231399")
    dataset[0x00080060] = raw(0x00080060, "CS", b"not a code string at all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metadata = read_metadata(dataset).metadata
    assert first_value(metadata, "00080020") == "20231399"
    assert first_value(metadata, "00080060") == "not a code string at all"


def test_file_meta_and_group_lengths_are_left_out():
    dataset = decode(encode(build_dataset(metadata_of())))
    dataset.add_new(0x00080000, "UL", 4)
    assert read_metadata(dataset).metadata == metadata_of()


@pytest.mark.parametrize(
    ("element", "text"),
    [
        (None, ""),
        ({"vr": "UI"}, ""),
        ({"vr": "UI", "Value": []}, ""),
        ({"vr": "UI", "Value": [None]}, ""),
        ({"vr": "UI", "Value": ["1.2 \0"]}, "1.2"),
        ({"vr": "IS", "Value": [7]}, ""),
    ],
)
def test_first_value(element, text):
    assert first_value({"00080018": element}, "00080018") == text


def test_data_set_without_file_meta_can_be_encoded():
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = "1.2", "1.3", "P1"
    assert decode(encode(dataset)).PatientID == "P1"


def test_other_bytes_are_no_dicom():
    with pytest.raises(InvalidDicomError):
        decode(b"hello")
