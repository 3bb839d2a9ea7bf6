"""Rows that each table must hold for some keys, and the audit that compares the tables with them.

Never talks to the service except through the client that it is given. Begin with `feed_window.py`, then
`derivation.py` and `extract.py`.
"""
