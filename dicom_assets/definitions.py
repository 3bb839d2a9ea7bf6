"""The code location: Dagster definitions built from the settings in the environment."""

from dicom_assets.lake.memory import choose_memory_pool

choose_memory_pool()

from dicom_assets.component.building import build_definitions
from dicom_assets.config.services import load_services

__all__ = ["build_definitions", "defs"]

defs = build_definitions(*load_services())
