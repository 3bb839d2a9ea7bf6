"""HTTP clients and retry policies that every service of the network shares.

Never knows what a request is for, or who signs it. Begin with `retries.py`.
"""
