"""Examination of everything that a run needs: settings, tokens, service, lake, Dagster.

Never changes anything but a probe file that it deletes again. Begin with `examination.py`.
"""
