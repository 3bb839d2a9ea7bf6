"""A stand-in for OneLake: Azurite behind a server that refuses what OneLake does.

Sources: "OneLake and Azure Data Lake Storage API parity" (at the level of a workspace there is HEAD, and listing; what
lies at the first two levels of an item is managed), and what Microsoft's developers and users wrote: `startFrom` with
names gives an empty list (apache/arrow-rs-object-store 695, 696), and a batch of deletions is refused, with names and
with ids (delta-io/delta-rs 4401).
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import trustme

WORKSPACE, ITEM = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-aaaaaaaaaaaa"
WORKSPACE_NAME, ITEM_NAME = "hospital", "lake.Lakehouse"
NOTHING = b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
WHAT_IS_THE_ITEM = (
    b'{"error":{"code":"BadRequest","message":"Either WorkspaceId or ArtifactId are missing in the request"}}'
)
HOP_BY_HOP = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}


@contextmanager
def run_onelake(azurite_url: str, container: str, authority: trustme.CA, authority_file: str) -> Iterator[str]:
    """Give the URL of an account with one workspace, which a container of Azurite holds, until the block ends."""
    origin, _, account = azurite_url.rpartition("/")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            _, workspace, *item = unquote(url.path).strip("/").split("/")
            is_list = query.get("comp") == ["list"]
            if not item and self.command != "HEAD" and not is_list:
                self.send(400, WHAT_IS_THE_ITEM)
                return
            if len(item) in (1, 2) and self.command not in {"GET", "HEAD"}:
                self.send(400, b"managed")
                return
            has_names = workspace == WORKSPACE_NAME
            if has_names and is_list and "startFrom" in query:
                self.send(200, NOTHING)
                return
            path = "/".join((account, container, *(ITEM if part == ITEM_NAME else part for part in item)))
            answer = client.request(
                self.command,
                f"{origin}/{quote(path)}?{url.query.replace(ITEM_NAME, ITEM)}",
                headers={name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP},
                content=body,
            )
            content = (
                answer.content.replace(ITEM.encode(), ITEM_NAME.encode()) if has_names and is_list else answer.content
            )
            self.send(answer.status_code, content, answer.headers)

        do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 — the names of http.server

        def send(self, status: int, content: bytes, headers: httpx.Headers | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if name not in HOP_BY_HOP:
                    self.send_header(name, value)
            length = (headers or {}).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    with httpx.Client(verify=ssl.create_default_context(cafile=authority_file), timeout=60) as client:
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}/{account}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
