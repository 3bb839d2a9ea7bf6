"""Azure tokens, and the `httpx.Auth` that carries them.

Never sends a token over plain http to another machine, or logs one. Begin with `token_auth.py`, then `tokens.py`.
"""
