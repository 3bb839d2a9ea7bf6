"""Rows of each table: entries of the feed, the fold over them, and the merge into a table.

Never reads or writes a file. Begin with `change_feed.py`, then `instance.py` and `merge.py`.
"""
