"""DICOM files by UID or by query, from the place that `file_index` names, or from the service.

Never copies a file into the lake. Begin with `instances.py`.
"""
