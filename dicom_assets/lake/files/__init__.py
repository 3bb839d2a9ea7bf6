"""Files of a table: Parquet content, the folder they lie in, and which of them belong to which service.

Never reads the log or decides what is written. Begin with `Files` in `folder.py`.
"""
