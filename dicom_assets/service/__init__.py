"""The change feed over HTTP: requests and their retries, and the pages of a window with all their entries.

Never writes a table. Begin with `client.py`, then `pages.py` and `requests.py`.
"""
