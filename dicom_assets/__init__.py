"""Dagster assets that keep five Delta tables in step with the change feed of a DICOM service.

From Python: `open_instance`, `iter_instances` and `read_header` give DICOM files by UID or by query.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_assets.instances import InstanceFile, iter_instances, open_instance, read_header

__all__ = ["InstanceFile", "iter_instances", "open_instance", "read_header"]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: commands that need none of them start sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dicom_assets import instances

    return getattr(instances, name)
