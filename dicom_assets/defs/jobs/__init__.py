"""Jobs beside the hourly assets: audit, upkeep, doctor, Fabric's shortcuts, alerts.

Never writes rows of its own. Begin with `watch.py`.
"""
