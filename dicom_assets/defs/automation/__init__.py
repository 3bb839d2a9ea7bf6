"""Sensors and schedules that start runs, and the adoption of hours that were written without Dagster.

Never writes a table. Begin with `automation.py`, then `feed_sensor.py` and `catch_up.py`.
"""
