"""An embedded DICOM service, with the change feed of the real one, for demos, tests and trying.

Shares nothing with the client but `core/`. Begin with `http/app.py`, then `store/store.py`.
"""
