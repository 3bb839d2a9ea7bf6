"""Dagster's record of hours: which were read, when, and which runs are under way.

Never writes to the record. Begin with `hour_log.py`.
"""
