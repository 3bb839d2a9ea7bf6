"""Instances and their change feed, in SQLite and a folder of files.

Never speaks HTTP. Begin with `store.py`.
"""
