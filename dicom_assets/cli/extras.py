"""Optional packages of the command line: the extra that installs each, and errors that a missing one causes."""

from typing import Final

_EXTRAS: Final = {
    "pydicom": "emulator",
    "starlette": "emulator",
    "uvicorn": "emulator",
    "pyspark": "spark",
    "polars": "polars",
}
"""Extra of `dicom-assets` by optional module."""


def describe_missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return a sentence that names the extra with the missing module; None if no extra installs the module."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    return f'This needs {module}, which is not installed here: pip install "dicom-assets[{extra}]"'
