"""One Delta table: its state, the plan of a merge, its Parquet files, and the commit.

Never derives a row. Begin with `Lake.write` in `delta.py`; `plan.py` picks the files of a merge.
"""
