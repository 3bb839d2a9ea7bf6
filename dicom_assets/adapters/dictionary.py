"""The DICOM data dictionary from the file that comes with the project.

`dictionary.tsv` has the elements of pydicom's dictionary, which a test compares it with: reading it takes
milliseconds, importing pydicom some tenths of a second at the start of every run.
"""

from functools import cache
from importlib import resources

from dicom_assets.core.dictionary import Dictionary, Element

FILE = "dictionary.tsv"


@cache
def load_dictionary() -> Dictionary:
    """The dictionary, read once."""
    lines = (resources.files("dicom_assets.adapters") / FILE).read_text(encoding="utf-8").splitlines()
    return Dictionary(Element(*line.split("\t")) for line in lines)
