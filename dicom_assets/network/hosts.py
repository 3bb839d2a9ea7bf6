"""Hosts of URLs."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether requests to the host stay on this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
