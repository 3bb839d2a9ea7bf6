"""An HTTP client whose requests reach whom they are meant for: over https, or on this machine."""

import ssl
from typing import Any

import httpx


def open_http_client(base_url: str, **options: Any) -> httpx.Client:
    """A client that asks for JSON below a URL; the caller closes it.

    Args:
        base_url: of a service.
        options: of httpx, such as `auth`, `timeout` and `limits`.
    """
    encrypted = base_url.startswith("https:")
    return httpx.Client(
        base_url=base_url,
        # Reading the trusted authorities takes longer than a window; without https a context that trusts none does.
        verify=True if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        # Plain http is for this machine alone: a proxy from the environment would carry it elsewhere.
        trust_env=encrypted,
        headers={"Accept": "application/json"},
        **options,
    )
