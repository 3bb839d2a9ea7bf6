"""Columns, entries, the fold and the merge: Arrow tables in, Arrow tables out.

Never touches a clock, a network, a log, a database or Dagster. Begin with `columns/schema.py`, then `tables/merge.py`.
"""
