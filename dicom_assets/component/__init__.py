"""Definitions for any Dagster project: from settings in Python, or from YAML attributes.

Never reads the environment or changes the process by itself. Begin with `building.py`, then `lake_component.py`.
"""
