"""Dagster's configuration as the package carries it, and commands and pages as a person finds them where it runs.

In a checkout `make` gives the commands, since `dicom-assets` is in `.venv/bin`; elsewhere there is no Makefile.
"""

import re
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("dicom_assets")))
DAGSTER_YAML = _PACKAGE / "dagster.yaml"
"""Configuration of a Dagster instance: SQLite, one writer at a time."""
WORKSPACE_YAML = _PACKAGE / "workspace.yaml"
"""The code location `dicom_assets.definitions`."""
REPOSITORY = "https://github.com/dicom-assets/dicom_assets/blob/main"
"""Address of the project's files."""


def is_checkout() -> bool:
    """Return whether the working directory is a checkout of the project, with the Makefile."""
    root = _PACKAGE.parent
    return (root / "Makefile").is_file() and root.samefile(Path.cwd())


def name_command(name: str, options: str = "") -> str:
    """Return a command of `dicom-assets` as it is given in the working directory.

    Args:
        name: Command that is also a target of the Makefile, such as `demo`.
        options: Options of the command.
    """
    if is_checkout():
        return f'make {name} ARGS="{options}"' if options else f"make {name}"
    return f"dicom-assets {name} {options}".rstrip()


def link_pages(text: str) -> str:
    """Return a message with the address of each page of `docs/` that it names; in a checkout, the message unchanged."""
    return text if is_checkout() else re.sub(r"\bdocs/\w+\.md\b", rf"{REPOSITORY}/\g<0>", text)
