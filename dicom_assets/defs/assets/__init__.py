"""Assets, their metadata, and the IO manager that writes them.

Never decides when a run starts. Begin with `assets.py`.
"""
