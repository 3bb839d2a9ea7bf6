"""`dicom-assets init`: a Dagster project with the component of a DICOM service's tables."""

import re
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from dicom_assets.config.project import DAGSTER_YAML
from dicom_assets.core.errors import DicomAssetsError

_TEMPLATES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "env.example": ".env.example",
    "definitions.py": "src/{package}/definitions.py",
    "defs.yaml": "src/{package}/defs/dicom_lake/defs.yaml",
}
"""Path in the project by template."""
_EMPTY: Final = ("src/{package}/__init__.py", "src/{package}/defs/__init__.py", "tests/__init__.py")
_MAY_EXIST: Final = {".git", ".venv"}
"""Contents of a folder in which a project can be created."""
_HISTORY: Final = """\
# The Dagster instance of this project, where DAGSTER_HOME is not set: SQLite, one writer at a time.

storage: # without it the history would end with each command
  sqlite:
    base_dir: .dagster/storage
"""


class InitError(DicomAssetsError):
    """A project cannot be created in a folder."""


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the project, new or empty.", file_okay=False)
    ],
) -> None:
    """Create a Dagster project with the tables of a DICOM service, for `dg dev`."""
    package = write_project(folder)
    typer.echo(f"A Dagster project is in {folder}. Next:\n")
    typer.echo(f"  cd {folder}")
    typer.echo("  uv sync && source .venv/bin/activate    # or: pip install -e . dagster-dg-cli")
    typer.echo("  cp .env.example .env                    # then name the DICOM service in it")
    typer.echo("  dg check defs && dg dev\n")
    typer.echo(f"The component is src/{package}/defs/dicom_lake/defs.yaml.")


def write_project(folder: Path) -> str:
    """Write a project into a folder, and return the name of the project's package.

    The folder's name is the project's.

    Raises:
        InitError: The folder is not empty, or its name is not a name for a package.
    """
    if folder.exists() and {path.name for path in folder.iterdir()} - _MAY_EXIST:
        raise InitError(
            f"{folder} is not empty, so no project was created. To add the tables to the Dagster project there, run: "
            "dg scaffold defs dicom_assets.DicomLakeComponent dicom_lake"
        )
    name = folder.resolve().name
    package = re.sub(r"[-. ]+", "_", name.lower())
    if not package.isidentifier() or iskeyword(package) or _is_module(package):
        raise InitError(
            f"A project in {folder} would have the package {package}: Python cannot import that, or the name has a "
            "meaning already. Choose another name for the folder, such as imaging_lake."
        )
    values = {"name": package.replace("_", "-"), "package": package, "version": version("dicom-assets")}
    templates = files("dicom_assets.cli") / "project"
    contents = {
        path: Template((templates / f"{template}.template").read_text(encoding="utf-8")).substitute(values)
        for template, path in _TEMPLATES.items()
    }
    _, _, configuration = DAGSTER_YAML.read_text(encoding="utf-8").partition("\n")  # without its title
    contents |= {"dagster.yaml": _HISTORY + configuration} | dict.fromkeys(_EMPTY, "")
    for path, content in contents.items():
        target = folder / path.format(package=package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    return package


def _is_module(name: str) -> bool:
    """Return whether Python finds a module of that name; a folder without `__init__.py` does not count."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None
