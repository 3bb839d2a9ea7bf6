"""Routes of the embedded service, and its server.

Never keeps state of its own. Begin with `app.py`.
"""
