"""Made-up studies, and histories of stores, updates and deletes that fill the service.

Never contains data of a real patient. Begin with `sources.py`.
"""
