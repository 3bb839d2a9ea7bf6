"""Data sets: from DICOM files to the JSON that the service shows, and the checks of stored values.

Never keeps state. Begin with `data_set.py`.
"""
