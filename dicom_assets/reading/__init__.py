"""Answers and changes, for people and programs: `dicom-assets sql` and `changes`, and `dicom_assets.changes`."""
