"""An HTTP client whose requests reach only their intended receiver: over https, or on this machine."""

import ssl
from typing import Any

import httpx


def open_http_client(base_url: str, **options: Any) -> httpx.Client:
    """Open a client that requests JSON below a URL; the caller closes it.

    Args:
        base_url: URL of a service.
        options: options of `httpx.Client`, such as `auth`, `timeout` and `limits`.
    """
    encrypted = base_url.startswith("https:")
    return httpx.Client(
        base_url=base_url,
        # Loading the trusted authorities takes longer than a window. Without https, an empty context is enough.
        verify=True if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        # Plain http must stay on this machine; a proxy from the environment would send it elsewhere.
        trust_env=encrypted,
        headers={"Accept": "application/json"},
        **options,
    )
