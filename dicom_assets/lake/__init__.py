"""Delta tables: where they lie, what they hold, how they are written and kept.

Never decides what rows a table must have; `derive` does. Begin with `table/delta.py`.
"""
