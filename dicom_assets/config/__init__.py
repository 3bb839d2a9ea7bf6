"""Settings: from the environment or Python to validated settings, and from settings to clients and lakes.

No other room but `definitions.py` and `cli/` reads the environment. Begin with `settings.py`, then `connections.py`.
"""
