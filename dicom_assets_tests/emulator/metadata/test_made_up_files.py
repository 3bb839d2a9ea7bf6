"""Files of instances that were stored as metadata alone."""

import io
import warnings

import pytest
from pydicom import dcmread

from dicom_assets.emulator.datasets.sources import synthesize
from dicom_assets.emulator.errors import InvalidInstanceError
from dicom_assets.emulator.metadata.data_set import first_value, read_metadata
from dicom_assets.emulator.metadata.made_up_files import encode_files
from dicom_assets_tests.emulator.conftest import metadata_of

LARGEST_BYTES = 64 * 2**10  # of 30 frames in colour
GREY = {
    "00280002": {"vr": "US", "Value": [1]},
    "00280004": {"vr": "CS", "Value": ["MONOCHROME2"]},
    "00280010": {"vr": "US", "Value": [5]},
    "00280011": {"vr": "US", "Value": [7]},
    "00280100": {"vr": "US", "Value": [8]},
    "00280101": {"vr": "US", "Value": [8]},
    "00280102": {"vr": "US", "Value": [7]},
    "00280103": {"vr": "US", "Value": [0]},
}


def encode(metadata):
    (content,) = encode_files([metadata])
    return content


def read(content):
    """The data set, with every value read, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = dcmread(io.BytesIO(content))
        assert str(dataset)
    return dataset


@pytest.fixture(scope="module")
def one_of_each_series():
    """Made-up instances of every modality."""
    instances = {first_value(metadata, "0020000E"): metadata for metadata in synthesize(2000)}
    assert {first_value(metadata, "00080060") for metadata in instances.values()} == {"CT", "MR", "CR", "US", "SR"}
    return list(instances.values())


def test_file_has_the_metadata_and_a_picture_of_its_size(one_of_each_series):
    for metadata, content in zip(one_of_each_series, encode_files(one_of_each_series), strict=True):
        dataset = read(content)
        assert read_metadata(dataset).metadata == metadata
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
        assert len(content) < LARGEST_BYTES
        assert ("PixelData" in dataset) == ("Rows" in dataset) == (dataset.Modality != "SR")
        if "Rows" in dataset:
            pixels = dataset.pixel_array
            frames = (dataset.NumberOfFrames,) if dataset.get("NumberOfFrames", 1) > 1 else ()
            colours = (3,) if dataset.SamplesPerPixel == 3 else ()
            assert pixels.shape == (*frames, dataset.Rows, dataset.Columns, *colours)
            assert 0 == pixels.min() < pixels.max() < 2**dataset.BitsStored


def test_file_does_not_depend_on_its_neighbours(one_of_each_series):
    some = one_of_each_series[:20]
    assert list(encode_files(some)) == [encode(metadata) for metadata in some]


def test_names_are_written_in_their_character_set():
    western = metadata_of(name="Müller^Jürgen") | {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}}
    unicode = metadata_of(name="Müller^Jürgen") | {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    for content in encode_files([western, unicode, western]):
        assert read(content).PatientName == "Müller^Jürgen"


@pytest.mark.parametrize("frames", [1, 3, "3 \0"])
def test_odd_picture_is_padded(frames):
    dataset = read(encode(metadata_of() | GREY | {"00280008": {"vr": "IS", "Value": [frames]}}))
    assert len(dataset.PixelData) % 2 == 0
    assert dataset.pixel_array.shape[-2:] == (5, 7)


@pytest.mark.parametrize("missing", ["00280010", "00280011", "00280100"])
def test_no_picture_without_a_size(missing):
    emptied = {"vr": "US"}
    assert "PixelData" not in read(encode(metadata_of() | GREY | {missing: emptied}))


def test_refusal_quotes_no_value():
    with pytest.raises(InvalidInstanceError) as refusal:
        encode(metadata_of() | {"00280010": {"vr": "US", "Value": ["Secret"]}})
    assert "Secret" not in str(refusal.value)
