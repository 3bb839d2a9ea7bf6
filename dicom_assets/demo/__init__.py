"""`dicom-assets demo` and `dicom-assets dev`: the embedded service and Dagster, started together.

Never part of production. Begin with `demo.py`.
"""
