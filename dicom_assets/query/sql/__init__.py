"""SQL over the tables, read-only and bounded.

Never lets a statement write, or read a file of its own choice. Begin with `engine.py`.
"""
