"""One Delta table: the state of its versions, the plan of a merge, and the commit.

Never derives a row. Begin with `Lake.write` in `delta.py`; `plan.py` picks the files of a merge.
"""
