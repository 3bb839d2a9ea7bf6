"""Shortcuts of a Fabric lakehouse that lead to the tables and files.

Never moves data. Begin with `wanted.py`, then `shortcuts.py` and `client.py`.
"""
