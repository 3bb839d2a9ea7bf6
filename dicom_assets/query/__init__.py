"""SQL, changes and DICOM files, for people and programs.

Never writes a table. Begin with `change_data.py`, `sql/engine.py` or `files/instances.py`.
"""
