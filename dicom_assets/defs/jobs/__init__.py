"""Jobs beside the hourly assets, a module for each: audit, freshness, upkeep, doctor, Fabric's shortcuts; and alerts.

Never writes rows of its own. Begin with `schedules.py`.
"""
