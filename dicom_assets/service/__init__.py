"""The change feed over HTTP: requests and their retries, pages of a window, entries as rows.

Never writes a table. Begin with `client.py`, then `pages.py` and `requests.py`.
"""
