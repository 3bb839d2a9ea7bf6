"""What the benchmark's service can give: one bare socket, no HTTP client. It must be far ahead of the download."""

import socket
from typing import Any
from urllib.parse import urlencode, urlsplit

from common import PAGE, Window, main


def run(url: str, _folder: str, window: Window) -> dict[str, Any]:
    address = urlsplit(url)
    size = offset = 0
    buffer = bytearray(2**20)
    with socket.create_connection((address.hostname, address.port)) as connection:
        while True:
            query = urlencode({**window, "offset": offset, "limit": PAGE})
            connection.sendall(f"GET {address.path}?{query} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head, body = connection.recv(65536).split(b"\r\n\r\n", 1)
            length = int(head.rsplit(b": ", 1)[1])
            received = len(body)
            while received < length:
                received += connection.recv_into(buffer)
            if length == len(b"[]"):
                return {"bytes": size}
            size += length
            offset += PAGE


if __name__ == "__main__":
    main(run)
