"""The DICOM data dictionary, read from a file of this package.

`dictionary.tsv` has the elements of pydicom's dictionary; a test compares the two. Reading the file takes milliseconds,
while importing pydicom takes some tenths of a second at the start of every run.
"""

from functools import cache
from importlib import resources

from dicom_assets.core.columns.data_dictionary import Dictionary, Element

FILE = "dictionary.tsv"


@cache
def load_dictionary() -> Dictionary:
    """Return the dictionary; the file is read once."""
    lines = (resources.files("dicom_assets.config") / FILE).read_text(encoding="utf-8").splitlines()
    return Dictionary(Element(*line.split("\t")) for line in lines)
