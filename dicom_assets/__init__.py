"""Dagster assets that keep five Delta tables in step with the change feed of a DICOM service."""
