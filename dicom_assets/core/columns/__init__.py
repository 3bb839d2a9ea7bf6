"""Columns of the tables, and their values out of DICOM JSON.

Never looks at the order of events. Begin with `schema.py`, which declares every table and column.
"""
