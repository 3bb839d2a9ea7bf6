"""Dagster: assets, checks, sensors and jobs around the tables.

Never holds a rule about rows. Begin with `assets/assets.py`; `component/building.py` above puts all together.
"""
