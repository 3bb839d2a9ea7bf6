"""The file of the dictionary; `python -m dicom_assets_tests.config.test_dictionary` writes it anew."""

from importlib import resources

import pytest
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary

from dicom_assets.config.dictionary import FILE, load_dictionary
from dicom_assets.core.columns.data_dictionary import Element

PATH = resources.files("dicom_assets.config") / FILE


def lines() -> str:
    known = {f"{tag:08X}": entry for tag, entry in DicomDictionary.items()} | RepeatersDictionary
    return "".join(f"{tag}\t{vr}\t{vm}\t{keyword}\n" for tag, (vr, vm, _, _, keyword) in sorted(known.items()))


def test_the_file_has_the_elements_of_pydicoms_dictionary():
    assert PATH.read_text() == lines()


def test_elements_are_found_by_tag_and_by_keyword():
    thickness = Element("00180050", "DS", "1", "SliceThickness")
    assert load_dictionary().of_tag("00180050") == thickness
    assert load_dictionary().of_keyword("SliceThickness") == thickness
    assert load_dictionary().of_keyword("") is None


@pytest.mark.parametrize(("tag", "keyword"), [("60020010", "OverlayRows"), ("00203104", "SourceImageIDs")])
def test_elements_of_repeating_groups_are_found_by_tag(tag, keyword):
    assert load_dictionary().of_tag(tag).keyword == keyword


@pytest.mark.parametrize("tag", ["00190010", "00180003", "60013000", "FFFFFFFF"])
def test_unknown_tags_are_not_found(tag):
    assert load_dictionary().of_tag(tag) is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("SliceThicknes", "SliceThickness"),
        ("slicethickness", "SliceThickness"),
        ("Kvp", "KVP"),
        ("Colour of hair", None),
    ],
)
def test_the_keyword_that_was_meant_is_suggested(given, meant):
    assert load_dictionary().suggest(given) == meant


def test_the_tag_that_was_meant_is_suggested():
    assert load_dictionary().suggest_tag("00180051") == load_dictionary().of_keyword("SliceThickness")
    assert load_dictionary().suggest_tag("0ABC0010") is None


if __name__ == "__main__":
    PATH.write_text(lines())
