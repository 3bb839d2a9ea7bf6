"""The tables of a DICOM service as a component of any Dagster project: `type: dicom_assets.DicomLakeComponent`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel, Field

from dicom_assets.component.attributes import build_model, resolve_own, resolve_settings
from dicom_assets.component.building import KEY_PREFIX, build_defs
from dicom_assets.config.settings import Settings
from dicom_assets.defs.pipeline import Automation

KEY_ATTRIBUTES: dict[str, Any] = {
    "key_prefix": (
        str | list[str] | None,
        Field(
            default=KEY_PREFIX,
            description="First parts of the asset keys, such as `radiology/north`. The names of jobs, sensors, "
            "schedules, resources and pools begin with them.",
        ),
    ),
    "group_name": (str | None, Field(default=None, description="Group of the assets; named after the prefix.")),
}
_OWN = {
    **KEY_ATTRIBUTES,
    "owners": (list[str] | None, Field(default=None, description="Owners of the assets, as `team:imaging-data`.")),
    "automation": (
        Literal["stopped", "running", "off", False],  # YAML reads `off` as False
        Field(
            default="stopped",
            description="Whether sensors and schedules start out `stopped` or `running`; `off` leaves them out.",
        ),
    ),
}


class DicomLakeScaffolder(dg.Scaffolder[Any]):
    """Scaffolder of `dg scaffold defs dicom_assets.DicomLakeComponent NAME`."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's file; it loads before its variable is set, and names everything after the folder."""
        name = request.target_path.name
        attributes = {
            "service_url": f"{{{{ env.{name.upper()}_SERVICE_URL }}}}",
            "start_time": "2026-03-01T00:00Z",
            "storage_url": "{{ context.project_root }}/data",
            "container_name": name.replace("_", "-"),
            "key_prefix": name,
        }
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(DicomLakeScaffolder)
@dataclass
class DicomLakeComponent(dg.Component, dg.Resolvable):
    """Delta tables that stay in step with the change feed of a DICOM service.

    Five assets in hourly partitions (`change_feed`, `instance`, `series`, `study` and `file_index`), with their checks,
    jobs, sensors and schedules. Attributes are the settings, in small letters and without `DICOM_`.
    """

    settings: Settings
    """Settings of the lake and the first service."""
    others: Sequence[Settings] = ()
    """Settings of the other services, where there are several."""
    key_prefix: str | Sequence[str] | None = KEY_PREFIX
    group_name: str | None = None
    owners: Sequence[str] = ()
    automation: Automation = "stopped"

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return what `dg list components` shows beside the description."""
        return dg.ComponentTypeSpec(tags=["dicom", "delta"])

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the model of the attributes; Dagster compares it by identity, so that each class has one."""
        return _build_model(cls)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "DicomLakeComponent":
        """Return the component that a file describes.

        Raises:
            ResolutionException: Attributes cannot be used; the text shows each with its line in the file.
        """
        own = resolve_own(context, model, _OWN)
        own["owners"] = own.get("owners") or ()
        own["automation"] = own.get("automation", "stopped") or "off"
        settings, *others = resolve_settings(context, model)
        return cls(settings=settings, others=others, **own)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's interface
        """Return the definitions."""
        return build_defs(
            self.settings,
            *self.others,
            key_prefix=self.key_prefix,
            group_name=self.group_name,
            owners=self.owners,
            automation=self.automation,
        )


@cache
def _build_model(component: type[dg.Component]) -> type[BaseModel]:
    return build_model(f"{component.__name__}Model", _OWN)
