"""The tables of a lake that another code location keeps: assets to depend on, and the IO manager that loads them.

No service is asked and no table is written. The other code location materialises the assets; Dagster's UI shows one
graph, with the history that its runs have.
"""

from collections.abc import Sequence

import dagster as dg

from dicom_assets.component.building import KEY_PREFIX, get_time
from dicom_assets.config.settings import Settings
from dicom_assets.core.errors import SettingsError
from dicom_assets.defs.assets.io_manager import DeltaIOManager
from dicom_assets.defs.assets.metadata import DESCRIPTIONS, describe_table
from dicom_assets.defs.naming import Naming, check_key_prefix
from dicom_assets.defs.pipeline import Pipeline

NO_START = (
    "is not set, so the hours of the tables are not known. Set it to the start_time of the component or the settings "
    "that keep these tables (DICOM_START_TIME), such as 2026-03-01T00:00Z."
)


def asset_specs(
    settings: Settings, *, key_prefix: str | Sequence[str] | None = KEY_PREFIX, group_name: str | None = None
) -> list[dg.AssetSpec]:
    """Return the assets of the tables as external assets, with their hourly partitions.

    Inputs of other assets are loaded by the resource `dicom__delta` (of another prefix: `radiology__north__delta`),
    which `lake_io_manager` gives.

    Args:
        settings: Settings of the lake: where the tables are, and their first hour.
        key_prefix: The prefix in the code location that keeps the tables: `"radiology/north"` or a list of its parts;
            None where the tables' keys have no prefix.
        group_name: Group of the assets; None names it after the prefix.

    Raises:
        SettingsError: The prefix cannot be one, or no first hour is set.
    """
    if settings.start_time is None:
        raise SettingsError(f"start_time {NO_START}")
    pipeline = _build_pipeline(settings, key_prefix, group_name)
    naming = pipeline.naming
    return [
        dg.AssetSpec(
            key,
            description=DESCRIPTIONS[table.name],
            group_name=naming.group,
            kinds={"dicom", "deltalake"},
            partitions_def=pipeline.partitions,
            metadata=describe_table(table, pipeline.lake.uri(table), naming),
        ).with_io_manager_key(naming.io_manager)
        for key, table in pipeline.tables_by_key.items()
    ]


def lake_io_manager(settings: Settings, *, key_prefix: str | Sequence[str] | None = KEY_PREFIX) -> dg.IOManager:
    """Return the IO manager that loads the assets of `asset_specs`; it is their resource `dicom__delta`.

    Args:
        settings: Settings of the lake, with the identity that reads it.
        key_prefix: Prefix of the assets' keys, as for `asset_specs`.

    Raises:
        SettingsError: The prefix cannot be one.
    """
    pipeline = _build_pipeline(settings, key_prefix)
    return DeltaIOManager(pipeline.lake, pipeline.tables_by_key, pipeline.memory)


def build_tables(settings: Settings, key_prefix: str | Sequence[str] | None, group_name: str | None) -> dg.Definitions:
    """Return `asset_specs`, with their IO manager under the resource key that they name.

    Raises:
        SettingsError: As for `asset_specs`.
    """
    key = _build_pipeline(settings, key_prefix).naming.io_manager
    return dg.Definitions(
        assets=asset_specs(settings, key_prefix=key_prefix, group_name=group_name),
        resources={key: lake_io_manager(settings, key_prefix=key_prefix)},
    )


def _build_pipeline(
    settings: Settings, key_prefix: str | Sequence[str] | None, group_name: str | None = None
) -> Pipeline:
    prefix = check_key_prefix(key_prefix)
    return Pipeline(settings, get_time, Naming.of_service(settings.service_name, prefix, group_name))
