"""Columns that users list in a file of their own."""

from collections.abc import Sequence
from pathlib import Path

from dicom_assets.config.dictionary import load_dictionary
from dicom_assets.config.document import load_document
from dicom_assets.core.columns.extra_columns import parse_extra_columns
from dicom_assets.core.columns.schema import Column, Grain
from dicom_assets.core.problem import Problem

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
