"""The file of users' columns."""

from collections.abc import Sequence
from pathlib import Path

from dicom_assets.adapters.dictionary import load_dictionary
from dicom_assets.adapters.document import load_document
from dicom_assets.core.extra_columns import parse_extra_columns
from dicom_assets.core.problem import Problem
from dicom_assets.core.schema import Column, Grain

Columns = tuple[tuple[Column, Grain], ...]


def load_columns(path: Path) -> Columns:
    """Return the columns that a TOML or YAML file lists.

    Raises:
        SettingsError: the file cannot be read, or is invalid; the message shows every invalid line.
    """
    return load_document(path, _parse, help_page="docs/columns.md")


def _parse(document: object) -> tuple[Columns, Sequence[Problem]]:
    found = parse_extra_columns(document, load_dictionary())
    return found.columns, found.problems
