"""Whoever hands out tokens, on loopback: App Service, the metadata endpoint of a virtual machine, Microsoft Entra."""

import base64
import json
import math
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trustme

TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT = "22222222-2222-2222-2222-222222222222"
OBJECT = "44444444-4444-4444-4444-444444444444"
SECRET = "hidden-secret"
HEADER = "hidden-header"
ASSERTION = "hidden-assertion"

SHORT_LIFE_SECONDS = 8
"""Of a token that a test outlives; an operation may take as long where other processes have the machine."""
OUTLIVED_AFTER_SECONDS = SHORT_LIFE_SECONDS + 1.1
"""Ends of tokens are whole seconds, rounded up."""


@dataclass(frozen=True)
class TokenRequest:
    """What was asked of the endpoint."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]

    @property
    def audience(self) -> str:
        return self.params.get("resource") or self.params["scope"].removesuffix("/.default")


@dataclass(frozen=True)
class Trouble:
    """What comes instead of a token: an answer, or none at all."""

    status: int | None = None
    """None ends the connection without an answer."""
    body: dict[str, Any] | str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class TokenServer:
    """Hands out JWTs, numbered in their `jti`. Nobody checks signatures, so they have none worth the name."""

    life_seconds: float = 3600
    issuer: str = f"https://sts.windows.net/{TENANT}/"
    audience: str | None = None
    """Put into every token instead of what was asked for."""
    refusal: tuple[int, dict[str, Any]] | None = None
    """Status and body that go out instead of a token."""
    is_silent: bool = False
    """Whether connections end without an answer."""
    troubles: Iterator[Trouble] = field(default_factory=lambda: iter(()))
    """One for each request, before tokens come again."""
    requests: list[TokenRequest] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def running(self, authority: trustme.CA | None = None) -> Iterator["TokenServer"]:
        """Serves until the block ends, over https where there is an authority."""
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                tokens._answer(self, url.path, dict(parse_qsl(url.query)))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                tokens._answer(self, self.path, dict(parse_qsl(body.decode())))

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.url = f"{'http' if authority is None else 'https'}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def reset(self) -> None:
        fresh = TokenServer(url=self.url)
        self.__dict__.update(fresh.__dict__)

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, params: dict[str, str]) -> None:
        if self.is_silent:
            handler.close_connection = True
            return
        if path.endswith("/.well-known/openid-configuration"):
            self._send(handler, 200, self._configuration())
            return
        request = TokenRequest(path, params, {name.lower(): value for name, value in handler.headers.items()})
        self.requests.append(request)
        if (trouble := next(self.troubles, None)) is not None:
            if trouble.status is None:
                handler.close_connection = True
            else:
                self._send(handler, trouble.status, trouble.body, trouble.headers)
            return
        if self.refusal is not None:
            self._send(handler, *self.refusal)
            return
        token = self.issue(self.audience or request.audience, len(self.requests))
        life = int(self.life_seconds)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": life}
        if request.path != f"/{TENANT}/oauth2/v2.0/token":
            answer["expires_on"] = int(time.time()) + life
        self._send(handler, 200, answer)

    def issue(self, audience: str, number: int = 0) -> str:
        """A token as Entra would write it, for the audience, from now on."""
        now = time.time()
        claims = {"aud": audience, "iss": self.issuer, "iat": int(now) - 5, "nbf": int(now) - 5}
        claims |= {"exp": math.ceil(now + self.life_seconds), "tid": TENANT, "oid": OBJECT, "jti": f"hidden-{number}"}
        parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)] + [b"hidden"]
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)

    def _configuration(self) -> dict[str, Any]:
        return {
            "issuer": f"{self.url}/{TENANT}/v2.0",
            "authorization_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/authorize",
            "token_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/devicecode",
        }

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler,
        status: int,
        body: dict[str, Any] | str,
        headers: dict[str, str] | None = None,
    ) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
