import re

from dicom_assets.core import errors


def tree(error, depth=0):
    """The error and all below it, each with its depth, in the order of their definition."""
    own = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
    return [(depth, error.__name__), *(row for each in own for row in tree(each, depth + 1))]


def test_page_of_errors_shows_all_of_them_in_their_order():
    shown = re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", errors.__doc__, re.MULTILINE)
    assert [(len(branch) // 4, name) for branch, name in shown] == tree(errors.DicomAssetsError)
