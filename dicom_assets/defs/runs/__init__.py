"""Derivations of one run: what they report, their progress, and how a retried run goes on.

Never starts a run. Begin with `observed.py`.
"""
