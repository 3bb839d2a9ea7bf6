"""The tables of a lake in a second code location: `type: dicom_assets.DicomTablesComponent`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg
from pydantic import BaseModel

from dicom_assets.component.attributes import build_error, build_model, resolve_own, resolve_settings
from dicom_assets.component.building import KEY_PREFIX
from dicom_assets.component.lake_component import KEY_ATTRIBUTES
from dicom_assets.component.tables import NO_START, build_tables
from dicom_assets.config.settings import Settings

_SETTINGS = frozenset({
    "storage_url", "container_name", "start_time", "end_time", "extra_columns", "table_profile", "services",
    "authentication", "azure_tenant_id", "azure_client_id", "azure_client_secret", "azure_authority_host",
    "azure_storage_account_key", "azure_storage_sas_token",
    *(name for name in Settings.model_fields if name.endswith("_table_path")),
})  # fmt: skip
"""Settings of a lake that is only read."""


class DicomTablesScaffolder(dg.Scaffolder[Any]):
    """Scaffolder of `dg scaffold defs dicom_assets.DicomTablesComponent NAME`."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's file, to be filled in with the attributes of the component that keeps the tables."""
        name = request.target_path.name
        attributes = {
            "start_time": "2026-03-01T00:00Z",
            "storage_url": "{{ context.project_root }}/data",
            "container_name": name.replace("_", "-"),
            "key_prefix": name,
        }
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(DicomTablesScaffolder)
@dataclass
class DicomTablesComponent(dg.Component, dg.Resolvable):
    """Tables that another code location keeps: assets to depend on, which can be loaded, and are not materialised.

    Attributes are those of the `DicomLakeComponent` that keeps the tables, as far as they say where the tables are,
    which hours they have, and who may read them.
    """

    settings: Settings
    """Settings of the lake, and of the first service where there are several."""
    others: Sequence[Settings] = ()
    """Settings of the other services, where there are several."""
    key_prefix: str | Sequence[str] | None = KEY_PREFIX
    group_name: str | None = None

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return what `dg list components` shows beside the description."""
        return dg.ComponentTypeSpec(tags=["dicom", "delta"])

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the model of the attributes; Dagster compares it by identity, so that each class has one."""
        return _build_model(cls)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "DicomTablesComponent":
        """Return the component that a file describes.

        Raises:
            ResolutionException: Attributes cannot be used; the text shows each with its line in the file.
        """
        own = resolve_own(context, model, KEY_ATTRIBUTES)
        settings, *others = resolve_settings(context, model)
        if any(each.start_time is None for each in (settings, *others)):
            raise build_error(context, [("start_time", NO_START)])
        return cls(settings=settings, others=others, **own)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's interface
        """Return the assets, and the IO managers that load them."""
        services = (self.settings, *self.others)
        return dg.Definitions.merge(*(build_tables(each, self.key_prefix, self.group_name) for each in services))


@cache
def _build_model(component: type[dg.Component]) -> type[BaseModel]:
    return build_model(f"{component.__name__}Model", KEY_ATTRIBUTES, _SETTINGS)
