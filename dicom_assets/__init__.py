"""Dagster assets that keep five Delta tables in step with the change feed of a DICOM service.

From Python: `open_instance`, `iter_instances` and `read_header` give DICOM files by UID or by query, and `changes` the
rows of a table that changed; where there are several services, `load_service` gives the settings of one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_assets.config.services import load_service
    from dicom_assets.lake.table_changes import TableChanges
    from dicom_assets.query.change_data import changes
    from dicom_assets.query.files.instances import InstanceFile, iter_instances, open_instance, read_header

__all__ = ["InstanceFile", "TableChanges", "changes", "iter_instances", "load_service", "open_instance", "read_header"]

_MODULES = {
    "TableChanges": "dicom_assets.lake.table_changes",
    "changes": "dicom_assets.query.change_data",
    "load_service": "dicom_assets.config.services",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first used: commands that need none of them start sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES.get(name, "dicom_assets.query.files.instances")), name)
