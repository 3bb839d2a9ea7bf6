"""Asset checks, and the refusals that stop a run before it writes.

Never changes a table. Begin with `checks.py`.
"""
