"""Dagster: assets, their IO manager, resources, partitions and checks. Thin wiring around core and adapters."""
