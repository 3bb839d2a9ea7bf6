"""Files of the tables, in a local folder or in Azure storage.

Never knows what a file holds. Begin with `storage.py`.
"""
