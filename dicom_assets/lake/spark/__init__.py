"""Merges by Apache Spark, over Spark Connect, in place of Parquet files written here.

Never reads a table for its rows. Begin with `engine.py`.
"""
