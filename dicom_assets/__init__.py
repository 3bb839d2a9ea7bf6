"""Dagster assets that keep five Delta tables in step with the change feed of a DICOM service.

In a Dagster project: `DicomLakeComponent` in YAML, or `build_defs(LakeSettings(…))` in Python.

From Python: `open_instance`, `iter_instances` and `read_header` give DICOM files by UID or by query, and `changes` the
rows of a table that changed; where there are several services, `load_service` gives the settings of one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_assets.component.building import build_defs
    from dicom_assets.component.lake_component import DicomLakeComponent
    from dicom_assets.component.tables import asset_specs, lake_io_manager
    from dicom_assets.component.tables_component import DicomTablesComponent
    from dicom_assets.config.services import load_service
    from dicom_assets.config.settings import LakeSettings
    from dicom_assets.lake.table_changes import TableChanges
    from dicom_assets.query.change_data import changes
    from dicom_assets.query.files.instances import InstanceFile, iter_instances, open_instance, read_header

__all__ = [
    "DicomLakeComponent",
    "DicomTablesComponent",
    "InstanceFile",
    "LakeSettings",
    "TableChanges",
    "asset_specs",
    "build_defs",
    "changes",
    "iter_instances",
    "lake_io_manager",
    "load_service",
    "open_instance",
    "read_header",
]

_MODULES = {
    "DicomLakeComponent": "dicom_assets.component.lake_component",
    "DicomTablesComponent": "dicom_assets.component.tables_component",
    "LakeSettings": "dicom_assets.config.settings",
    "TableChanges": "dicom_assets.lake.table_changes",
    "asset_specs": "dicom_assets.component.tables",
    "build_defs": "dicom_assets.component.building",
    "changes": "dicom_assets.query.change_data",
    "lake_io_manager": "dicom_assets.component.tables",
    "load_service": "dicom_assets.config.services",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first used: commands that need none of them start sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES.get(name, "dicom_assets.query.files.instances")), name)


def __dir__() -> list[str]:
    """Return all names, so that `dg` finds the components."""
    return sorted({*globals(), *__all__})
