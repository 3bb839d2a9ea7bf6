"""Query results and row changes, for people and programs.

The commands `dicom-assets sql` and `dicom-assets changes`, and the function `dicom_assets.changes`, are defined here.
"""
