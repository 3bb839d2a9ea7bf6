import math
import warnings
from io import BytesIO

import pytest
from pydicom import dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicom_assets.emulator.metadata.data_set import build_dataset, encode, first_value, read_dataset, read_metadata
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
    dataset[0x00280010] = raw(0x00280010, "US", b"\1\0\0")
    dataset.add_new(0x00280106, "US or SS", 1)
    read = read_metadata(dataset)
    assert set(read.metadata) == {"00100020"}
    assert set(read.dropped) == {"(0018,0050)", "(0028,0008)", "(0028,0010)", "(0028,0106)"}


def test_numbers_that_json_does_not_know_are_words():
    dataset = Dataset()
    dataset.add_new(0x00189074, "FD", [1.5, math.nan, math.inf])
    dataset.add_new(0x00189086, "FL", -math.inf)
    assert read_metadata(dataset).metadata == {
        "00189074": {"vr": "FD", "Value": [1.5, "NaN", "Infinity"]},
        "00189086": {"vr": "FL", "Value": ["-Infinity"]},
    }


def test_empty_values_among_others_are_null():
    dataset = Dataset()
    dataset[0x00080008] = raw(0x00080008, "CS", b"A\\\\B ")
    dataset[0x00081048] = raw(0x00081048, "PN", b"A^B\\\\C ")
    dataset[0x00185010] = raw(0x00185010, "LO", b"C5\\\\ ")
    dataset[0x00200032] = raw(0x00200032, "DS", b"1\\\\3 ")
    values = {tag: element["Value"] for tag, element in read_metadata(dataset).metadata.items()}
    assert values == {
        "00080008": ["A", None, "B"],
        "00081048": [{"Alphabetic": "A^B"}, None, {"Alphabetic": "C"}],
        "00185010": ["C5", None, None],
        "00200032": [1, None, 3],
    }


def test_escapes_of_character_sets_are_no_text():
    name = "\u7b2c\u4e00".encode("gb2312")
    dataset = read_dataset(encode(build_dataset(metadata_of())))
    dataset[0x00080005] = raw(0x00080005, "CS", b"\\ISO 2022 IR 58")
    dataset[0x00081030] = raw(0x00081030, "LO", b"A \x1b$)A" + name)
    dataset[0x00100010] = raw(0x00100010, "PN", b"Wang^Xiao=\x1b$)A" + name)
    metadata = read_metadata(read_dataset(encode(dataset))).metadata
    assert metadata["00081030"]["Value"] == ["A \u7b2c\u4e00"]
    assert metadata["00100010"]["Value"] == [{"Alphabetic": "Wang^Xiao", "Ideographic": "\u7b2c\u4e00"}]


@pytest.mark.parametrize(
    ("tag", "vr", "valid", "invalid"),
    [
        (0x00081155, "UI", b"1.2.3\0", b"1.02.3"),
        (0x00081155, "UI", b"1.2.3 ", b"1..3"),
        (0x00100040, "CS", b"M ", b"N/A "),
        (0x00180015, "CS", b"BRAIN\0", b"Brain "),
        (0x00080030, "TM", b"101112.5", b"10:11:12"),
        (0x00080050, "SH", b"A1", b"A" * 18),
        (0x00080020, "DA", b"20260301", b"20231399"),
        (0x00081030, "LO", b"Head ", b"a\x01b\0"),
        (0x00204000, "LT", b"a\r\nb", b"a\x01b\0"),
        (0x00101010, "AS", b"034Y", b"34Y "),
        (0x00280008, "IS", b"1\\2 ", b"1\\1234567890123 "),
        (0x00180050, "DS", b"0.123456789 ", b"0.12345678901234567 "),
        (0x00100010, "PN", b"Doe^Jo", b"x" * 66),
    ],
)
def test_values_that_do_not_fit_are_left_out_on_demand(tag, vr, valid, invalid):
    for value, is_kept in (valid, True), (invalid, False):
        item, dataset = Dataset(), Dataset()
        item[tag] = dataset[tag] = raw(tag, vr, value)
        dataset.ConceptNameCodeSequence = Sequence([item])
        read = read_metadata(dataset, validate=True)
        assert (f"{tag:08X}" in read.metadata) is is_kept
        assert (f"{tag:08X}" in read.metadata["0040A043"]["Value"][0]) is is_kept
        assert len(read.dropped) == (0 if is_kept else 2)


def test_private_elements_of_implicit_files_are_known_by_their_creator():
    for creator, is_known in (b"GEMS_ACQU_01", True), (b"NOBODY KNOWS", False):
        dataset = build_dataset(metadata_of())
        dataset[0x00190010] = raw(0x00190010, "LO", creator)
        dataset[0x00191002] = raw(0x00191002, None, b"7\0\0\0")
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        assert ("00191002" in read_metadata(read_dataset(encode(dataset))).metadata) is is_known


def test_number_of_bytes_that_fit_no_number_drops_the_element():
    dataset = Dataset()
    dataset[0x00280010] = raw(0x00280010, "US", b"\1\0\0")
    assert read_metadata(dataset).dropped == ("(0028,0010)",)


def test_data_set_without_preamble_is_read_if_it_names_its_instance():
    content = encode(build_dataset(metadata_of()))
    length = int.from_bytes(content[140:144], "little")
    bare = content[144 + length :]
    assert read_metadata(read_dataset(bare)).metadata == metadata_of()
    assert read_metadata(read_dataset(content[132:])).metadata == metadata_of()
    without_class = metadata_of()
    del without_class["00080016"]
    with pytest.raises(InvalidDicomError):
        read_dataset(encode_bare(without_class))


def encode_bare(metadata):
    buffer = BytesIO()
    dcmwrite(buffer, build_dataset(metadata), implicit_vr=False, little_endian=True, enforce_file_format=False)
    content = buffer.getvalue()
    return content[144 + int.from_bytes(content[140:144], "little") :]


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
    dataset = read_dataset(encode(build_dataset(metadata_of())))
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
    assert read_dataset(encode(dataset)).PatientID == "P1"


def test_other_bytes_are_no_dicom():
    with pytest.raises(InvalidDicomError):
        read_dataset(b"hello")
